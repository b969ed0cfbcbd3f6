//! Names made to mislead.

use anyhow::{Result, ensure};

use super::{Needs, Outcome, Scenario, eater_dies};
use crate::{Env, victim::Look};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "names_that_imitate_the_log",
        shows: "Names with `)`, quotes, commas and pieces of the kernel's own lines: the event is \
                about the right process.",
        needs: Needs::Nothing,
        run: names_that_imitate_the_log,
    },
    Scenario {
        name: "names_that_are_no_text",
        shows: "Names with a newline, control characters and bytes that are not UTF-8: the record \
                is one line of valid JSON.",
        needs: Needs::Nothing,
        run: names_that_are_no_text,
    },
];

fn names_that_imitate_the_log(env: &Env) -> Result<Outcome> {
    for name in [
        b"\"a\\\"b'c".as_slice(),
        b"x) total-vm:1kB",
        b",task=x,pid=1,",
        b"]: 1 (init)",
    ] {
        dies_by_name(env, name)?;
    }
    Ok(Outcome::Passed)
}

fn names_that_are_no_text(env: &Env) -> Result<Outcome> {
    for name in [
        b"two\nlines".as_slice(),
        b"\x1b[31mred\x07\r\t",
        b"\xff\xfe\xc3\xa4\x80 end",
    ] {
        dies_by_name(env, name)?;
    }
    Ok(Outcome::Passed)
}

fn dies_by_name(env: &Env, name: &[u8]) -> Result<()> {
    let look = Look {
        comm: Some(name),
        ..Look::default()
    };
    let (facts, account) = eater_dies(env, "name", &look, &["eat"])?;
    ensure!(
        account.killed.comm == name,
        "the kernel printed {:?}",
        account.killed.comm
    );
    ensure!(facts.comm == name, "/proc said {:?}", facts.comm);
    Ok(())
}
