//! The user and groups of a service, which a thread of root can assume to check access.

use nix::unistd::{Group, User};
use rustix::thread::{Gid, Uid};

/// The user and groups of a service that is not root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceIdentity {
    name: String,
    user: Uid,
    group: Gid,
    groups: Vec<Gid>,
}

impl ServiceIdentity {
    /// Returns the identity of the user `name`, if it exists and is not root. Without a known `group`, its
    /// group is the first group of the user.
    pub(super) fn find(name: &str, group: Option<&str>, supplementary: &[String]) -> Option<Self> {
        let user = User::from_name(name).ok()??;
        let group_of = |name: &str| Some(Group::from_name(name).ok()??.gid);
        let gid = |gid: nix::unistd::Gid| Gid::from_raw(gid.as_raw());
        let group = group.and_then(group_of).unwrap_or(user.gid);
        let mut groups = vec![gid(group)];
        groups.extend(supplementary.iter().filter_map(|name| group_of(name)).map(gid));
        (!user.uid.is_root()).then(|| Self {
            name: name.to_owned(),
            user: Uid::from_raw(user.uid.as_raw()),
            group: gid(group),
            groups,
        })
    }

    /// The name of the user.
    pub(super) fn user(&self) -> &str {
        &self.name
    }

    /// Runs `work` with this identity, in a thread of its own, as no thread of root gets its identity back.
    /// `work` gets `None` if the thread cannot assume the identity.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce(Option<&Self>) -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| match self.assume() {
                Ok(()) => work(Some(self)),
                Err(error) => {
                    tracing::debug!(%error, "cannot act as {}: {error}", self.name);
                    work(None)
                }
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Gives the calling thread this identity, until the thread ends.
    fn assume(&self) -> rustix::io::Result<()> {
        rustix::thread::set_thread_groups(&self.groups)?;
        rustix::thread::set_thread_res_gid(self.group, self.group, self.group)?;
        rustix::thread::set_thread_res_uid(self.user, self.user, self.user)
    }

    /// An identity that owns nothing.
    #[cfg(test)]
    pub(super) fn unprivileged(name: &str) -> Self {
        let (user, group) = (Uid::from_raw(1), Gid::from_raw(1));
        Self { name: name.to_owned(), user, group, groups: Vec::new() }
    }
}
