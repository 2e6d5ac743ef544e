//! Engines that cannot run: found out, told with what to do about it, and passed over by `auto`.
//!
//! The tests make their own world around `/dev/kvm` where they may (as root); what this host has by itself is looked at in any
//! case.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tern_guests::{End, Tern, boot_sector, host};

/// The exit code of a host that cannot do what is asked.
const HOST: i32 = 74;

/// Nobody's number, on every system.
const NOBODY: u32 = 65534;

/// Programs that run another one where nothing is in `/dev`.
const WITHOUT_DEVICES: [&str; 5] =
    ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev && exec \"$0\" \"$@\""];

/// A folder that everybody may read, with a guest that ends with the code 7.
fn folder() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = folder.path().join("three.bin");
    fs::write(&file, boot_sector::sector(&boot_sector::debug_exit(3))).unwrap();
    let file = file.to_string_lossy().into_owned();
    (folder, file)
}

/// What `tern engines` says of `kvm`: whether it can run, the reason, and the remedy.
fn listed(end: &End) -> (bool, String, String) {
    let list: Value = serde_json::from_str(&end.console).unwrap();
    let kvm = list.as_array().unwrap().iter().find(|engine| engine["name"] == "kvm").unwrap();
    let text = |name: &str| kvm[name].as_str().unwrap_or_default().to_owned();
    (kvm["available"] == true, text("reason"), text("remedy"))
}

/// Compares what three commands say in the same world, which `put` makes for each of them: the list, the engine by its name,
/// and `auto`. Gives the reason, if `kvm` cannot run there.
fn agree(guest: &str, put: impl Fn(Tern) -> Tern) -> Option<String> {
    let finish = |tern| put(tern).within(Duration::from_secs(60)).finish();
    let (available, reason, remedy) = listed(&finish(Tern::new(["engines", "-o", "json"])).expect_code(0));
    let run = ["run", "--kernel", guest, "--debug-exit", "--memory", "1M", "--engine"];
    let of_engine = |name: &str| finish(Tern::new(run).arg(name));
    let automatic = of_engine("auto").expect_code(7);
    if available {
        assert_eq!(automatic.errors, "", "it is the fastest, and needs no word");
        let _ = of_engine("kvm").expect_code(7);
        return None;
    }
    assert!(!reason.is_empty() && !remedy.is_empty());
    let named = of_engine("kvm").expect_code(HOST);
    named.expect_errors(&[&reason, &remedy]);
    let told: Vec<_> = automatic.errors.lines().collect();
    assert_eq!(told.len(), 1, "one line: {told:?}");
    automatic.expect_errors(&["tern: using the engine 'soft'", &reason]);
    Some(reason)
}

#[test]
fn what_this_host_has_is_told_alike_in_the_list_by_name_and_by_auto() {
    let (_folder, guest) = folder();
    let reason = agree(&guest, |tern| tern);
    if Path::new("/sys/module/kvm_pvm").exists()
        && let Some(reason) = reason
        && !reason.contains("may not open")
    {
        assert!(reason.contains("does not run ordinary code") && reason.contains("PVM"), "{reason}");
    }
}

#[test]
fn a_device_that_is_missing_is_a_finding_of_its_own() {
    let mut trial = Command::new(WITHOUT_DEVICES[0]);
    trial.args(&WITHOUT_DEVICES[1..]).arg("true");
    if !trial.output().is_ok_and(|output| output.status.success()) {
        eprintln!("not tested: only root may take /dev away");
        return;
    }
    let (_folder, guest) = folder();
    let reason = agree(&guest, |tern| tern.through(&WITHOUT_DEVICES));
    assert_eq!(reason.as_deref(), Some("there is no /dev/kvm"));
}

#[test]
fn a_device_that_is_forbidden_is_a_finding_of_its_own() {
    let everybody_may = |mode: u32| mode & 0o006 == 0o006;
    let forbidden = fs::metadata("/dev/kvm").is_ok_and(|device| !everybody_may(device.permissions().mode()));
    if !forbidden || !host::is_root() {
        eprintln!(
            "not tested: there is no /dev/kvm that somebody else may not open, or no root to be somebody else"
        );
        return;
    }
    let (folder, guest) = folder();
    // Where everybody may start it.
    let program = folder.path().join("tern");
    fs::copy(Tern::program(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let reason = agree(&guest, |tern| tern.from(&program).user(NOBODY));
    assert_eq!(reason.as_deref(), Some("this user may not open /dev/kvm"));
}
