//! The `weightprint` command; everything is in the library and in `cli`.

#[allow(clippy::disallowed_macros, reason = "the command line is where output belongs")]
mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
