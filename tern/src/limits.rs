//! How many files and sockets this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than a machine with every device and all connections has.
const ENOUGH: u64 = 1 << 16;

/// Allows as many as a machine may come to need, as far as the host lets us. Usual are 1024, for the sake of programs that use select(2):
/// a guest could take all of them by connecting to sockets, and nobody who asks for the machine would be heard.
pub(crate) fn allow_enough_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(u64::MAX).min(ENOUGH);
    if current.is_some_and(|current| current < wanted) {
        // What the host refuses is as it was.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_allowed_as_the_host_lets_us_have() {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        // Other tests need no more meanwhile.
        let few = current.unwrap_or(u64::MAX).min(500);
        setrlimit(Resource::Nofile, Rlimit { current: Some(few), maximum }).unwrap();
        allow_enough_descriptors();
        let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert_eq!(allowed, maximum.unwrap_or(u64::MAX).min(ENOUGH));
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    }
}
