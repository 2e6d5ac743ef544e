//! Code that the machine itself writes.

use iced_x86::code_asm::al;
use tern_test_boundary::{CODE, TELL, on_every_engine};
use vm_memory::{Bytes, GuestAddress};

#[test]
fn code_that_the_machine_replaces_is_executed_as_it_is_now() {
    on_every_engine(
        |a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.mov(al, 1)?;
            a.out(i32::from(TELL), al)?;
            a.jmp(again)
        },
        |mut s| {
            // The immediate of the first instruction.
            for value in [1, 2, 3] {
                s.memory.write_obj(value, GuestAddress(u64::from(CODE) + 1)).unwrap();
                assert_eq!(s.told(), value, "{}", s.engine);
                assert_eq!(s.told(), value, "{}", s.engine);
            }
        },
    );
}
