//! Records the git commit in the binary, with `-dirty` if the tree has uncommitted changes, so that a run
//! folder names the code that made it. If the feature `python` is on, this also sets the library path of
//! the Python that the binary is built for, so that the binary starts from any folder.

fn main() {
    if let Some(folder) =
        std::env::var_os("DEP_ENV_BRIDGE_PYTHON_LIBRARY").filter(|folder| !folder.is_empty())
    {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
    // If any of these changes, the tree may no longer be the committed one.
    for path in [
        ".git/logs/HEAD",
        "Cargo.lock",
        "src",
        "agent/src",
        "agent/kernels/src",
        "env-bridge/src",
        "scenarios/src",
        "trainer/src",
        "trainer/recipes",
    ] {
        println!("cargo:rerun-if-changed={path}");
    }
    let output = std::process::Command::new("git")
        .args([
            "describe",
            "--always",
            "--exclude=*",
            "--abbrev=12",
            "--dirty",
        ])
        .output()
        .ok()
        .filter(|output| output.status.success());
    let commit = output
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=HEARTH_COMMIT={}", commit.trim());
}
