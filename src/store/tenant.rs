//! A handle that acts inside one tenant.

use std::time::Duration;

use crate::model::{Cause, Change, Credential, InvalidSubject, LocalSubject, Revocation, Subject, Verdict};

use super::check::Presented;
use super::write::Command;
use super::{Explanation, Pending, Receipt, Store, WriteError};

/// A store seen from inside one tenant. It takes [`LocalSubject`]s, which cannot name a tenant, so that code which holds
/// only this handle cannot touch another.
#[derive(Clone, Debug)]
pub struct TenantStore {
    store: Store,
    tenant: Box<str>,
}

impl TenantStore {
    pub(super) fn new(store: Store, tenant: Box<str>) -> Self {
        Self { store, tenant }
    }

    /// The tenant's name.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The verdict on a credential of this tenant; one that names no tenant counts as of this one, one that names
    /// another gets [`Cause::ForeignTenant`].
    pub fn check(&self, credential: &Credential<'_>) -> Verdict {
        match credential.tenant_name() {
            Some(tenant) if tenant != &*self.tenant => Verdict::Unknown(Cause::ForeignTenant),
            _ => self.store.shared.check(Presented::within(credential, &self.tenant)),
        }
    }

    /// Revokes a subject of this tenant; see [`Store::revoke`].
    ///
    /// # Errors
    /// As [`Store::revoke`].
    pub fn revoke(&self, revocation: Revocation<LocalSubject>) -> Result<Receipt, WriteError> {
        self.submit(revocation)?.wait()
    }

    /// Revokes a subject of this tenant, with the acknowledgement to come; see [`Store::submit`].
    ///
    /// # Errors
    /// As [`Store::submit`].
    pub fn submit(&self, revocation: Revocation<LocalSubject>) -> Result<Pending, WriteError> {
        self.store.submit(revocation.within(&self.tenant))
    }

    /// Revokes many subjects of this tenant in one commit; see [`Store::revoke_many`].
    ///
    /// # Errors
    /// As [`Store::revoke_many`].
    pub fn revoke_many(
        &self,
        revocations: impl IntoIterator<Item = Revocation<LocalSubject>>,
    ) -> Result<Receipt, WriteError> {
        self.store.revoke_many(revocations.into_iter().map(|revocation| revocation.within(&self.tenant)))
    }

    /// Disables a user, client or device of this tenant, or the tenant; see [`Store::disable`].
    ///
    /// # Errors
    /// As [`Store::disable`].
    pub fn disable(&self, change: impl Into<Change<LocalSubject>>) -> Result<Receipt, WriteError> {
        self.store.engine.submit(Command::Disable(change.into().within(&self.tenant)))?.wait()
    }

    /// Enables it again; see [`Store::enable`].
    ///
    /// # Errors
    /// As [`Store::enable`].
    pub fn enable(&self, change: impl Into<Change<LocalSubject>>) -> Result<Receipt, WriteError> {
        self.store.engine.submit(Command::Enable(change.into().within(&self.tenant)))?.wait()
    }

    /// Takes revocations of a subject of this tenant back; see [`Store::lift`].
    ///
    /// # Errors
    /// As [`Store::lift`].
    pub fn lift(&self, change: impl Into<Change<LocalSubject>>) -> Result<Receipt, WriteError> {
        self.store.engine.submit(Command::Lift(change.into().within(&self.tenant)))?.wait()
    }

    /// Sets the maximum age of this tenant's credentials; see [`Store::set_max_credential_age`].
    ///
    /// # Errors
    /// As [`Store::set_max_credential_age`].
    pub fn set_max_credential_age(&self, age: Duration) -> Result<Receipt, WriteError> {
        self.store.set_max_credential_age(Subject::tenant(&*self.tenant), age)
    }

    /// Removes the maximum age of this tenant's credentials; see [`Store::clear_max_credential_age`].
    ///
    /// # Errors
    /// As [`Store::clear_max_credential_age`].
    pub fn clear_max_credential_age(&self) -> Result<Receipt, WriteError> {
        self.store.clear_max_credential_age(Subject::tenant(&*self.tenant))
    }

    /// Why a subject of this tenant is denied; see [`Store::explain`].
    ///
    /// # Errors
    /// When the subject cannot be named.
    pub fn explain(&self, subject: LocalSubject) -> Result<Option<Explanation>, InvalidSubject> {
        self.store.explain(&subject.within(&self.tenant))
    }
}
