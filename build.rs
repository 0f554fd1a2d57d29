//! Puts the git commit into the binary, so that a run's folder says which code made it, and whether it was committed. With
//! the `python` feature, lets the binary find the Python library it is built for, wherever it is started from.

fn main() {
    if let Some(folder) =
        std::env::var_os("DEP_ENV_BRIDGE_PYTHON_LIBRARY").filter(|folder| !folder.is_empty())
    {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
    // Whatever changes the program may change whether it is what was committed.
    for path in [
        ".git/logs/HEAD",
        "Cargo.lock",
        "src",
        "agent/src",
        "env-bridge/src",
        "scenarios/src",
        "trainer/src",
        "trainer/recipes",
    ] {
        println!("cargo:rerun-if-changed={path}");
    }
    let described = [
        "describe",
        "--always",
        "--exclude=*",
        "--abbrev=12",
        "--dirty",
    ];
    let commit = std::process::Command::new("git")
        .args(described)
        .output()
        .ok();
    let commit = commit
        .filter(|output| output.status.success())
        .map(|output| output.stdout);
    let commit = commit
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=HEARTH_COMMIT={}", commit.trim());
}
