//! Readers that close the pipe: the exit code stays that of the whole output, and nothing panics.

use std::io::pipe;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::zoo;

/// Exit code and standard error of a run. Each stream that is `closed` is a pipe of which nobody holds the other end.
fn run(args: &[&str], out_closed: bool, err_closed: bool) -> (i32, String) {
    let closed = || {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_weightprint"));
    command.env("WEIGHTPRINT_NO_CACHE", "1").args(args).stdin(Stdio::null());
    command.stdout(if out_closed { closed() } else { Stdio::piped() });
    command.stderr(if err_closed { closed() } else { Stdio::piped() });
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn catalog(folder: &Path) -> String {
    let catalog = folder.join("catalog").display().to_string();
    let base = zoo("base-a").display().to_string();
    let added = run(&["catalog", "add", &base, "--id", "zoo/base-a", "--catalog", &catalog], true, false);
    assert_eq!(added, (0, String::new()), "catalog add");
    catalog
}

#[test]
fn a_closed_pipe_leaves_the_exit_code_of_every_command_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = &catalog(folder.path());
    let (base, other) = (&zoo("base-a").display().to_string(), &zoo("base-b").display().to_string());
    let cases: &[(&[&str], i32)] = &[
        (&["scan", base, "--catalog", catalog], 1),
        (&["scan", base, "--catalog", catalog, "--format", "json"], 1),
        (&["scan", base, other, "--catalog", catalog], 1),
        (&["scan", other, "--catalog", catalog], 0),
        (&["scan", "missing", other, "--catalog", catalog], 3),
        (&["compare", base, base], 1),
        (&["compare", base, other], 0),
        (&["inspect", base], 0),
        (&["inspect", base, "--format", "json"], 0),
        (&["catalog", "list", "--catalog", catalog], 0),
        (&["catalog", "list", "--embedded"], 0),
        (&["catalog", "show", "zoo/base-a", "--catalog", catalog], 0),
        (&["catalog", "verify", "--catalog", catalog], 0),
        (&["explain"], 0),
        (&["explain", "bits"], 0),
        (&["schema"], 0),
        (&["--help"], 0),
        (&["--version"], 0),
        (&["scan", "missing"], 3),
        (&["explain", "nonsense"], 2),
        (&["nonsense"], 2),
    ];
    for (args, code) in cases {
        let told = run(args, false, false).1;
        assert_eq!(run(args, true, false), (*code, told), "{args:?}, standard output closed");
        assert_eq!(run(args, true, true).0, *code, "{args:?}, both closed");
        assert_eq!(run(args, false, true).0, *code, "{args:?}, standard error closed");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_an_error_and_errors_that_cannot_are_none() {
    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let run = |args: &[&str], out: Stdio, err: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weightprint"));
        command.args(args).stdout(out).stderr(err).spawn().unwrap().wait_with_output().unwrap()
    };
    let output = run(&["schema"], full(), Stdio::piped());
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot write to standard output"));
    assert_eq!(run(&["scan", "missing"], Stdio::null(), full()).status.code(), Some(3));
}
