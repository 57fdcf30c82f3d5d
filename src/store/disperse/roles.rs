//! The roles that this process has, and in which of the stores.
//!
//! A role is had by leases in a quorum of stores, so two processes never both have it. A store that was away when the role was
//! taken, or that has lost the lease, gives one before the next put there. It may do so only as long as the process has
//! leases in `T + 1` other stores without a break: until then nobody else can have had a quorum meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::{Error, Result};
use crate::store::{Lease, Role, Store};

/// The roles of one process.
#[derive(Debug, Default)]
pub(super) struct Roles {
    held: Mutex<Vec<Weak<HeldRole>>>,
}

/// A role that is had alone.
#[derive(Debug)]
pub(super) struct HeldRole {
    pub role: Role,
    command: String,
    owner: Option<String>,
    /// The number of other stores whose leases must be unbroken for a store to give a lease again.
    witnesses: usize,
    slots: Mutex<Vec<Slot>>,
}

/// The lease in one of the stores.
#[derive(Debug, Default)]
struct Slot {
    lease: Option<Lease>,
    /// Whether a thread asks for the lease now.
    is_asking: bool,
}

impl Slot {
    fn is_sound(&self) -> bool {
        self.lease.as_ref().is_some_and(Lease::is_sound)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Roles {
    pub fn add(&self, role: &Arc<HeldRole>) {
        let mut held = lock(&self.held);
        held.retain(|it| it.strong_count() > 0);
        held.push(Arc::downgrade(role));
    }

    fn held(&self) -> Vec<Arc<HeldRole>> {
        lock(&self.held).iter().filter_map(Weak::upgrade).collect()
    }

    pub fn has(&self, role: Role) -> bool {
        self.held().iter().any(|it| it.role == role)
    }

    /// Makes sure that a store has given all roles of this process, before something is put there.
    ///
    /// # Errors
    /// `Locked` if another process has one of them, or may have had it; otherwise it fails as the store does.
    pub fn ensure(&self, number: usize, store: &dyn Store) -> Result<()> {
        self.held().iter().try_for_each(|role| role.ensure(number, store))
    }
}

impl HeldRole {
    pub fn new(role: Role, command: &str, owner: Option<&str>, stores: usize, witnesses: usize) -> HeldRole {
        let slots = (0..stores).map(|_| Slot::default()).collect();
        let (command, owner) = (command.to_owned(), owner.map(str::to_owned));
        HeldRole { role, command, owner, witnesses, slots: Mutex::new(slots) }
    }

    /// Asks a store for the lease.
    ///
    /// # Errors
    /// `Locked` if another process has it there; otherwise it fails as the store does.
    pub fn ask(&self, store: &dyn Store) -> Result<Lease> {
        match &self.owner {
            Some(owner) => store.lease_as(self.role, &self.command, owner),
            None => store.lease(self.role, &self.command),
        }
    }

    pub fn give(&self, number: usize, lease: Lease) {
        lock(&self.slots)[number].lease = Some(lease);
    }

    /// The number of stores that have given a lease.
    pub fn count(&self) -> usize {
        lock(&self.slots).iter().filter(|slot| slot.lease.is_some()).count()
    }

    /// Takes the leases out, to be given back.
    pub fn take_all(&self) -> Vec<Option<Lease>> {
        lock(&self.slots).iter_mut().map(|slot| slot.lease.take()).collect()
    }

    fn ensure(&self, number: usize, store: &dyn Store) -> Result<()> {
        let broken = {
            let mut slots = lock(&self.slots);
            if slots[number].is_sound() {
                return Ok(());
            }
            let sound = slots.iter().filter(|slot| slot.is_sound()).count();
            if sound < self.witnesses {
                return Err(Error::locked(format!(
                    "too few stores still have the lease of {}, so another process may have taken it; start the command again",
                    self.command
                )));
            }
            if std::mem::replace(&mut slots[number].is_asking, true) {
                return Err(Error::unavailable("the store is still being asked for its lease"));
            }
            slots[number].lease.take()
        };
        drop(broken);
        let asked = self.ask(store);
        let slot = &mut lock(&self.slots)[number];
        slot.is_asking = false;
        slot.lease = Some(asked?);
        Ok(())
    }
}
