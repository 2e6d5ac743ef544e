//! The program as guests run it: every row gives its answer, and the output is what the benchmark reads.

use std::process::{Command, Output};

fn workload(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tern-workload"))
        .args(arguments)
        .output()
        .expect("it was built beside this test")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("it prints text")
}

#[test]
fn every_row_of_the_list_is_measured_in_its_unit() {
    let list = text(&workload(&["--list"]));
    let measured = text(&workload(&["--least", "1"]));
    assert_eq!(list.lines().count() + 1, measured.lines().count());
    assert!(measured.lines().last().unwrap().starts_with("took "), "{measured}");
    for (listed, measured) in list.lines().zip(measured.lines()) {
        let [name, unit, _group] = listed.split(' ').collect::<Vec<_>>()[..] else { panic!("{listed}") };
        let ["row", same_name, number, same_unit] = measured.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{measured}")
        };
        assert_eq!([same_name, same_unit], [name, unit]);
        assert!(number.parse::<f64>().unwrap() > 0.0, "{measured}");
    }
}

#[test]
fn only_the_named_rows_are_measured() {
    let measured = text(&workload(&["--least", "1", "fib", "crc32"]));
    let rows = measured.lines().filter_map(|line| line.strip_prefix("row "));
    let names: Vec<_> = rows.filter_map(|row| row.split(' ').next()).collect();
    assert_eq!(names, ["crc32", "fib"]);
}

#[test]
fn a_row_that_does_not_exist_is_refused() {
    let output = workload(&["fibonacci"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("Usage: "));
}
