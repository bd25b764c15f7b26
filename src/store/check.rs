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
        // The time matters to what is dated, and to everything where age is limited.
        if credential.is_dated() || self.policy.limits_age() {
            let now = self.clock.coarse_wall();
            if now.saturating_add(self.policy.skew) < self.high_water() {
                return Verdict::Unknown(Cause::Clock);
            }
            if let Some(denial) = self.policy.denies(credential, tenant, now) {
                return Verdict::Revoked(denial);
            }
        }
        match self.doubt(credential, tenant) {
            Some(cause) => Verdict::Unknown(cause),
            None => Verdict::Clear,
        }
    }

    /// Why "nothing denies it" is not enough to let it in.
    fn doubt(&self, credential: &Credential<'_>, tenant: Option<&str>) -> Option<Cause> {
        if self.is_closed() {
            return Some(Cause::Closed);
        }
        let malformed = credential.malformed_claim().map(Cause::MalformedClaim);
        malformed.or_else(|| self.policy.missing_claim(credential, tenant).map(Cause::MissingClaim))
    }

    /// The first entry that denies the credential, from the narrowest subject to the widest.
    fn denial(&self, credential: &Credential<'_>, tenant: Option<&str>) -> Option<Denial> {
        self.find(credential, tenant, |named, shape, digest| {
            self.denylist.judge(shape, digest, credential, named.session_matches(shape))
        })
    }

    /// The latest epoch that binds the credential.
    pub(super) fn latest_epoch(&self, credential: &Credential<'_>, tenant: Option<&str>) -> Option<Timestamp> {
        let mut latest = None;
        self.find(credential, tenant, |named, shape, digest| {
            latest = latest.max(self.denylist.binding_epoch(digest, named.session_matches(shape)));
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
        let mut shapes = self.denylist.shapes() & credential.shapes(tenant.is_some());
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
        };
        while shapes != 0 {
            let kind = Kind::ALL.get(shapes.trailing_zeros() as usize / 4).copied()?;
            let scopes = shapes >> (kind as u32 * 4) & 0b1111;
            shapes &= !kind.shapes();
            let mut visit = |id| named.find(kind, id, scopes, &mut visit);
            let found = match kind {
                Kind::Group => credential.groups.iter().find_map(|group| visit(IdRef::Name(group))),
                // The handle of a tenant supplies it also where the credential does not name it.
                Kind::Tenant => tenant.and_then(|tenant| visit(IdRef::Name(tenant))),
                kind => credential.id_of(kind).and_then(visit),
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

/// A credential on its way through the denylist, with what has been hashed of it.
struct Named<'a> {
    shared: &'a Shared,
    credential: &'a Credential<'a>,
    tenant: Option<(&'a str, PartHash)>,
    issuer: Option<(&'a str, PartHash)>,
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
    #[inline]
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

    /// Whether the credential's session, in the scope of a subject, is the one with a digest. The session's own digest is
    /// computed when it is first asked for: by the rare epoch that spares sessions, and binds the credential otherwise.
    fn session_matches(&self, subject: Shape) -> impl Fn(&Digest) -> bool {
        let in_tenant = subject.in_tenant || subject.kind == Kind::Tenant;
        let session = Shape { kind: Kind::Session, in_tenant, at_issuer: subject.at_issuer };
        let digest = OnceCell::new();
        move |wanted| {
            let own = digest.get_or_init(|| self.digest(session, self.credential.id_of(Kind::Session)?));
            own.as_ref() == Some(wanted)
        }
    }
}

/// The shape of a kind in one of the four scopes.
const fn shape(kind: Kind, scope: u8) -> Shape {
    Shape { kind, in_tenant: scope & 1 != 0, at_issuer: scope & 2 != 0 }
}
