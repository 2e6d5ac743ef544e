//! What is printed for people and for programs.

use tern_guests::{PROMPT, Tern, engine, host};

#[test]
fn the_engines_are_listed_for_programs() {
    let end = Tern::new(["engines", "-o", "json"]).finish().expect_code(0);
    let list: serde_json::Value = serde_json::from_str(&end.console).unwrap();
    let engines = list.as_array().unwrap();
    let soft = engines.iter().find(|engine| engine["name"] == "soft").unwrap();
    assert_eq!(soft["available"], true, "the software engine needs nothing special");
    for engine in engines {
        assert!(!engine["reason"].as_str().unwrap().is_empty(), "{engine}");
        assert!(engine["available"] == true || engine["remedy"].is_string(), "{engine}");
    }
}

#[test]
fn a_guest_has_the_processor_that_is_listed() {
    let end = Tern::new(["engines", "-o", "json"]).finish().expect_code(0);
    let list: serde_json::Value = serde_json::from_str(&end.console).unwrap();
    let listed = list.as_array().unwrap().iter().find(|listed| listed["name"] == engine()).unwrap();
    let model = match listed["processor"].as_str().unwrap() {
        "tern-v2" => "Tern v2 Processor",
        "tern-v3" => "Tern v3 Processor",
        other => panic!("there is no model '{other}'"),
    };
    let mut guest = Tern::run().start();
    guest.wait_for(PROMPT);
    assert_eq!(guest.ask("grep -m1 'model name' /proc/cpuinfo | cut -d: -f2-").trim(), model);
    let avx2 = guest.ask("grep -cw avx2 /proc/cpuinfo");
    assert_eq!(avx2 != "0", model.contains("v3"));
    guest.power_off();
}

#[test]
fn statistics_tell_what_the_machine_did() {
    let mut guest = Tern::run().arg("--stats").start();
    guest.wait_for(PROMPT);
    // Nothing to do: the processor halts.
    guest.ask("sleep 1");
    let end = guest.power_off();
    let value = |name: &str| {
        let line = end.errors.lines().find_map(|line| line.trim_start().strip_prefix(name));
        let line = line.unwrap_or_else(|| end.fail(&format!("there is no line about {name:?}")));
        let number = line.trim().trim_end_matches(" s").replace(',', "");
        number.parse::<f64>().unwrap_or_else(|_| end.fail(&format!("{name:?} is no number: {line}")))
    };
    if host::counts_instructions() {
        assert!(value("instructions") > 1e8, "a boot takes some hundred million instructions");
        assert!(value("MIPS while busy") > 1.0);
    }
    assert!(value("wall time") <= end.took.as_secs_f64());
    assert!(value("port-out") >= 100.0, "each character of the console is an exit");
    // A guest that is starved, in lockstep or on an emulated computer whose host is busy, meets the next tick before each halt.
    assert!(value(host::halts()) >= 1.0 || value(host::ticks()) >= 100.0);
}

#[test]
fn nothing_but_the_guest_is_heard_if_asked_for_quiet() {
    let mut guest = Tern::run().arg("--quiet").start();
    guest.wait_for(PROMPT);
    let end = guest.power_off();
    assert_eq!(end.errors, "");
}
