//! `/dev/kvm`: opening it, what it offers, and why it cannot be used.
//!
//! Three findings have three remedies: it is not there, it may not be opened, or it answers but does not do its work
//! (`trial` finds that out).

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm, VmFd};
use tern_engine::EngineError;

/// Why guests cannot run, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was found.
    pub reason: String,
    /// What the user can do.
    pub remedy: String,
}

impl Finding {
    /// A finding in two sentences.
    pub fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into() }
    }
}

/// The only version of the interface that there ever was after its experimental days.
const API_VERSION: i32 = 12;

/// What the engine cannot do without, with the kernel that brought the youngest of them: 4.12.
const NEEDED: [(Cap, &str); 11] = [
    (Cap::Irqchip, "interrupt controllers"),
    (Cap::IrqRouting, "interrupt routing"),
    (Cap::Pit2, "the interval timer"),
    (Cap::SignalMsi, "message-signalled interrupts"),
    (Cap::UserMemory, "guest memory"),
    (Cap::SetTssAddr, "a place for real mode's helpers"),
    (Cap::ExtCpuid, "CPUID"),
    (Cap::MpState, "processor activity"),
    (Cap::VcpuEvents, "pending events"),
    (Cap::GetTscKhz, "the TSC's frequency"),
    (Cap::ImmediateExit, "immediate exits"),
];

/// An open `/dev/kvm` that offers what the engine needs.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
    supported_cpuid: Vec<kvm_cpuid_entry2>,
    /// The model-specific registers that the kernel saves and restores, sorted.
    msrs: Vec<u32>,
}

impl Host {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open() -> Result<Self, Finding> {
        let kvm = Kvm::new().map_err(|error| not_opened(error.errno(), group_of_device().as_deref()))?;
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(Finding::new(
                format!("/dev/kvm speaks version {version} of its interface, not {API_VERSION}"),
                "Check what provides /dev/kvm on this host.",
            ));
        }
        let missing: Vec<_> =
            NEEDED.iter().filter(|(cap, _)| !kvm.check_extension(*cap)).map(|(_, name)| *name).collect();
        if !missing.is_empty() {
            return Err(Finding::new(
                format!("/dev/kvm does not offer {}", missing.join(", ")),
                "Use a host with Linux 4.12 or newer.",
            ));
        }
        let refused = |what: &str, error: kvm_ioctls::Error| {
            Finding::new(
                format!("/dev/kvm does not tell {what}: {error}"),
                "Look into the kernel's log (dmesg).",
            )
        };
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        let supported_cpuid = cpuid.map_err(|error| refused("its CPUID", error))?.as_slice().to_vec();
        let list = kvm.get_msr_index_list();
        let mut msrs = list.map_err(|error| refused("its registers", error))?.as_slice().to_vec();
        msrs.sort_unstable();
        Ok(Self { kvm, supported_cpuid, msrs })
    }

    /// The device.
    pub const fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// A virtual machine with nothing in it.
    ///
    /// The kernel gives up (`EINTR`, in mm_take_all_locks) when a signal comes while it does this, such as the one that
    /// kicked this thread's last processor a moment too late. That says nothing about the machine, so it is made anew.
    ///
    /// # Errors
    /// The host refuses it.
    pub fn create_vm(&self) -> Result<VmFd, EngineError> {
        loop {
            match self.kvm.create_vm() {
                Err(error) if error.errno() == libc::EINTR => {}
                made => return made.map_err(refused("make a virtual machine")),
            }
        }
    }

    /// What CPUID can say to guests here.
    pub fn supported_cpuid(&self) -> &[kvm_cpuid_entry2] {
        &self.supported_cpuid
    }

    /// The model-specific registers that the kernel saves and restores, ascending.
    pub fn msrs(&self) -> &[u32] {
        &self.msrs
    }

    /// Whether the kernel keeps this model-specific register for guests.
    pub fn has_msr(&self, index: u32) -> bool {
        self.msrs.binary_search(&index).is_ok()
    }
}

/// The device's group, by name, if its members may open it.
fn group_of_device() -> Option<String> {
    let device = fs::metadata("/dev/kvm").ok()?;
    let may_open = device.permissions().mode() & 0o060 == 0o060;
    let groups = fs::read_to_string("/etc/group").ok()?;
    if may_open { group_by_number(&groups, device.gid()) } else { None }
}

/// A name in lines like `kvm:x:106:`, as group(5) has them. Root's own group is none to join.
fn group_by_number(groups: &str, number: u32) -> Option<String> {
    let mut lines = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let line = lines.find(|fields| fields.get(2).is_some_and(|field| field.parse() == Ok(number)))?;
    (number != 0).then(|| line[0].to_owned())
}

/// What an error of opening the device means, whose members of `group` may open it.
fn not_opened(errno: i32, group: Option<&str>) -> Finding {
    match (errno, group) {
        (libc::ENOENT, _) => Finding::new(
            "there is no /dev/kvm",
            "Load the module for the processor (`modprobe kvm-amd` or `modprobe kvm-intel`), switch virtualization on in \
             the firmware, or give the container the device (`--device /dev/kvm`).",
        ),
        (libc::EACCES, Some(group)) => Finding::new(
            "this user may not open /dev/kvm",
            format!("Add yourself to its group (`sudo usermod -aG {group} $USER`) and log in again."),
        ),
        (libc::EACCES, None) => Finding::new(
            "this user may not open /dev/kvm",
            "Only root may: give it to a group that you are in (`sudo chgrp kvm /dev/kvm && sudo chmod g+rw /dev/kvm`).",
        ),
        // The device's permissions allow it, so something else forbids it.
        (libc::EPERM, _) => Finding::new(
            "this process may not open /dev/kvm, whoever runs it",
            "A container must be given the device (`--device /dev/kvm`), and a service must be allowed it \
             (`DeviceAllow=/dev/kvm rw`).",
        ),
        (libc::ENODEV | libc::ENXIO, _) => Finding::new(
            "/dev/kvm exists, but nothing in the kernel stands behind it",
            "Load the module for the processor (`modprobe kvm-amd` or `modprobe kvm-intel`), and switch virtualization on in \
             the firmware.",
        ),
        _ => Finding::new(
            format!("/dev/kvm cannot be opened: {}", std::io::Error::from_raw_os_error(errno)),
            "Look into the kernel's log (dmesg).",
        ),
    }
}

/// Whether the host's KVM is PVM, which needs guests made for it.
pub fn is_pvm() -> bool {
    Path::new("/sys/module/kvm_pvm").exists()
}

/// An error of an ioctl as an engine's error.
pub fn refused(action: &'static str) -> impl Fn(kvm_ioctls::Error) -> EngineError {
    move |error| EngineError::Host { action, source: std::io::Error::from_raw_os_error(error.errno()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_and_a_forbidden_one_have_different_remedies() {
        let missing = not_opened(libc::ENOENT, None);
        assert!(missing.remedy.contains("modprobe"), "{missing:?}");
        let forbidden = not_opened(libc::EACCES, Some("virt"));
        assert!(forbidden.remedy.contains("usermod -aG virt"), "{forbidden:?}");
        let roots = not_opened(libc::EACCES, None);
        assert!(!roots.remedy.contains("usermod") && roots.remedy.contains("chgrp"), "{roots:?}");
        assert!(not_opened(libc::EPERM, None).remedy.contains("--device"));
    }

    #[test]
    fn a_group_is_found_by_its_number() {
        let groups = "root:x:0:\nkvm:x:106:me,you\nbroken\n";
        assert_eq!(group_by_number(groups, 106).as_deref(), Some("kvm"));
        assert_eq!(group_by_number(groups, 0), None);
        assert_eq!(group_by_number(groups, 7), None);
    }
}
