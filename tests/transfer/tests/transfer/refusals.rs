//! Machines that cannot go on somewhere say why.

use std::io;

use tern_engine::Engine;
use tern_soft::SoftEngine;
use tern_test_kernels::long::build;
use tern_test_kernels::run::Setup;
use tern_test_transfer::engines;
use tern_vmm::boot::KernelKind;
use tern_vmm::config::{CpuModel, MachineConfig};
use tern_vmm::machine::{End, Machine};
use tern_vmm::saved::Departed;

use super::on_this_host;

/// A machine on the first engine that left before its first instruction.
fn departed() -> Departed {
    departs_from(engines()[0], CpuModel::default())
}

fn departs_from(engine: &dyn Engine, cpu_model: CpuModel) -> Departed {
    let (image, _) = build(|g| g.nop());
    let config = MachineConfig { cpu_model, ..Setup::new(image, KernelKind::Elf).config() };
    let machine = Machine::new(config, engine, io::sink()).unwrap();
    machine.handle().depart();
    match machine.run().unwrap().end {
        End::Departed(departed) => *departed,
        end => panic!("{end:?}"),
    }
}

/// Why a machine may not go on here.
fn why_not(departed: Departed, engine: &dyn Engine) -> String {
    let error = Machine::arrive(departed, engine, io::sink()).err().expect("it is refused");
    let sources = std::iter::successors(std::error::Error::source(&error), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// What is said when the machine is to go on after `damage`.
fn refusal(damage: impl Fn(&mut Departed)) -> String {
    let mut texts = engines().into_iter().map(|engine| {
        let mut departed = departed();
        damage(&mut departed);
        why_not(departed, engine)
    });
    let first = texts.next().unwrap();
    for other in texts {
        assert!(!other.is_empty());
    }
    first
}

#[test]
fn a_machine_that_just_left_can_go_on() {
    Machine::arrive(departed(), engines()[0], io::sink()).unwrap();
}

#[test]
fn a_processor_beyond_the_engine_is_refused_with_what_it_lacks() {
    // AVX-512F, which nothing here gives to guests by this way.
    let text = refusal(|departed| {
        for leaf in &mut departed.state.vm.identity.leaves {
            if (leaf.function, leaf.index) == (7, Some(0)) {
                leaf.result.ebx |= 1 << 16;
            }
        }
    });
    assert!(text.contains("AVX512F"), "{text}");
}

#[test]
fn a_hosts_own_processor_is_refused_where_it_does_not_exist() {
    let Some(journey) = on_this_host(0, 0..1) else { return };
    let departed = departs_from(journey.engines[0], CpuModel::by_name("host").unwrap());
    let text = why_not(departed, &SoftEngine::default());
    assert!(text.contains("'soft' does not execute all that the machine's processor has: "), "{text}");
}

#[test]
fn a_state_of_another_machine_is_refused() {
    let text = refusal(|departed| departed.state.vcpus.clear());
    assert!(text.contains("0 processors"), "{text}");
    let text = refusal(|departed| departed.state.vm.local_apics.clear());
    assert!(text.contains("0 local APICs"), "{text}");
    let text = refusal(|departed| departed.state.devices.clock.memory.clear());
    assert!(text.contains("128 bytes"), "{text}");
}
