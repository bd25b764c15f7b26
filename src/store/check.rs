//! The check: which subjects a credential names, what is known of each, and which rules hold for all.

use std::cell::OnceCell;

use crate::model::{Cause, Credential, Denial, Digest, IdRef, Kind, PartHash, Shape, Timestamp, Verdict};

use super::Shared;

impl Shared {
    /// The verdict on a credential. `tenant` is the credential's, or the one that a tenant's handle supplies.
    pub(super) fn check(&self, credential: &Credential<'_>, tenant: Option<&str>) -> Verdict {
        // What we hold binds, whatever else is wrong with the credential or with us.
        if let Some(denial) = self.denial(credential, tenant) {
            return Verdict::Revoked(denial);
        }
        let now = self.clock.coarse_wall();
        if let Some(denial) = self.policy.denies(credential, tenant, now) {
            return Verdict::Revoked(denial);
        }
        match self.doubt(credential, tenant, now) {
            Some(cause) => Verdict::Unknown(cause),
            None => Verdict::Clear,
        }
    }

    /// Why "nothing denies it" is not enough to let it in.
    fn doubt(&self, credential: &Credential<'_>, tenant: Option<&str>, now: Timestamp) -> Option<Cause> {
        if self.is_closed() {
            return Some(Cause::Closed);
        }
        if now.saturating_add(self.policy.skew) < self.high_water() {
            return Some(Cause::Clock);
        }
        let malformed = credential.malformed_claim().map(Cause::MalformedClaim);
        malformed.or_else(|| self.policy.missing_claim(credential, tenant).map(Cause::MissingClaim))
    }

    /// The first entry that denies the credential, from the narrowest subject to the widest.
    fn denial(&self, credential: &Credential<'_>, tenant: Option<&str>) -> Option<Denial> {
        self.find(credential, tenant, |named, shape, digest| {
            self.denylist.judge(shape, digest, credential, |session| named.session_is(session))
        })
    }

    /// The latest epoch that binds the credential.
    pub(super) fn latest_epoch(&self, credential: &Credential<'_>, tenant: Option<&str>) -> Option<Timestamp> {
        let mut latest = None;
        self.find(credential, tenant, |named, _, digest| {
            latest = latest.max(self.denylist.binding_epoch(digest, |session| named.session_is(session)));
            None::<()>
        });
        latest
    }

    /// Gives each subject that the credential names and that may have an entry to `visit`, until that finds something.
    fn find<T>(
        &self,
        credential: &Credential<'_>,
        tenant: Option<&str>,
        mut visit: impl FnMut(&Named<'_>, Shape, &Digest) -> Option<T>,
    ) -> Option<T> {
        let shapes = self.denylist.shapes();
        if shapes == 0 {
            return None;
        }
        let issuer = credential.issuer.as_deref();
        let part = |text: &str| self.keyring.hash_part(text.as_bytes());
        let named = Named {
            shared: self,
            credential,
            tenant: tenant.map(|tenant| (tenant, part(tenant))),
            issuer: issuer.map(|issuer| (issuer, part(issuer))),
            sessions: OnceCell::new(),
        };
        Kind::ALL.into_iter().find_map(|kind| {
            let scopes = shapes >> (kind as usize * 4) & 0b1111;
            if scopes == 0 {
                return None;
            }
            let mut visit = |id| named.find(kind, id, scopes, &mut visit);
            match kind {
                Kind::Group => credential.groups.iter().find_map(|group| visit(IdRef::Name(group))),
                // The handle of a tenant supplies it also where the credential does not name it.
                Kind::Tenant => tenant.and_then(|tenant| visit(IdRef::Name(tenant))),
                kind => credential.id_of(kind).and_then(visit),
            }
        })
    }
}

/// A credential on its way through the denylist, with what has been hashed of it.
struct Named<'a> {
    shared: &'a Shared,
    credential: &'a Credential<'a>,
    tenant: Option<(&'a str, PartHash)>,
    issuer: Option<(&'a str, PartHash)>,
    /// The digests of the credential's session in each scope, for the rare epoch that spares sessions.
    sessions: OnceCell<[Option<Digest>; 4]>,
}

impl Named<'_> {
    /// Visits one id in each scope that is in use: alone, in the tenant, at the issuer, both.
    fn find<T>(
        &self,
        kind: Kind,
        id: IdRef<'_>,
        scopes: u64,
        visit: &mut impl FnMut(&Self, Shape, &Digest) -> Option<T>,
    ) -> Option<T> {
        let part = self.shared.keyring.hash_part(id.as_bytes());
        (0..4).filter(|scope| scopes >> scope & 1 != 0).find_map(|scope| {
            let shape = shape(kind, scope);
            let (tenant, issuer) = self.scope(shape)?;
            let parts = (tenant.map(|(_, part)| part), issuer.map(|(_, part)| part));
            let locator = self.shared.keyring.locator(kind, part, parts.0, parts.1);
            if !self.shared.denylist.may_contain(locator) {
                return None;
            }
            visit(self, shape, &self.digest(shape, id)?)
        })
    }

    /// The tenant and the issuer that a shape asks for; none if the credential does not name them.
    #[expect(clippy::type_complexity, reason = "two optional parts, each with its hash")]
    fn scope(&self, shape: Shape) -> Option<(Option<(&str, PartHash)>, Option<(&str, PartHash)>)> {
        let tenant = if shape.in_tenant { Some(self.tenant?) } else { None };
        let issuer = if shape.at_issuer { Some(self.issuer?) } else { None };
        Some((tenant, issuer))
    }

    fn digest(&self, shape: Shape, id: IdRef<'_>) -> Option<Digest> {
        let (tenant, issuer) = self.scope(shape)?;
        Some(self.shared.keyring.digest(shape.kind, id, tenant.map(|(text, _)| text), issuer.map(|(text, _)| text)))
    }

    fn session_is(&self, wanted: &Digest) -> bool {
        let sessions = self.sessions.get_or_init(|| {
            [0, 1, 2, 3].map(|scope| self.digest(shape(Kind::Session, scope), self.credential.id_of(Kind::Session)?))
        });
        sessions.iter().flatten().any(|session| session == wanted)
    }
}

/// The shape of a kind in one of the four scopes.
const fn shape(kind: Kind, scope: u8) -> Shape {
    Shape { kind, in_tenant: scope & 1 != 0, at_issuer: scope & 2 != 0 }
}
