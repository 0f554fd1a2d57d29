//! Puts the git commit into the binary, so that a run's folder says which code made it. With the `python` feature, lets
//! the binary find the Python library it is built for, wherever it is started from.

fn main() {
    if let Some(folder) = std::env::var_os("DEP_ENV_BRIDGE_PYTHON_LIBRARY").filter(|folder| !folder.is_empty()) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
    println!("cargo:rerun-if-changed=.git/logs/HEAD");
    let commit = std::process::Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok();
    let commit = commit.filter(|output| output.status.success()).map(|output| output.stdout);
    let commit = commit.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=HEARTH_COMMIT={}", commit.trim());
}
