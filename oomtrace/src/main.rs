//! The `oomtrace` program: parse the flags, run one verb, say how it went.

use std::process::ExitCode;

fn main() -> ExitCode {
    oomtrace::cli::main()
}
