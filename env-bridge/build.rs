//! With the `python` feature: lets this package's tests find the Python library they are built for, and tells the code
//! and the binary's build script which Python that is.

fn main() {
    #[cfg(feature = "python")]
    {
        pyo3_build_config::add_libpython_rpath_link_args();
        let python = pyo3_build_config::get();
        if !python.shared() {
            println!(
                "cargo::error={} has no shared library, which hearth loads; name a Python that has one with \
                 PYO3_PYTHON=/path/to/python (Debian: apt-get install python3-dev, /usr/bin/python3; pyenv: \
                 PYTHON_CONFIGURE_OPTS=--enable-shared)",
                python.executable().unwrap_or("the Python found")
            );
            return;
        }
        println!(
            "cargo:rustc-env=HEARTH_PYTHON_MAJOR={}",
            python.version().major
        );
        println!(
            "cargo:rustc-env=HEARTH_PYTHON_MINOR={}",
            python.version().minor
        );
        println!(
            "cargo:rustc-env=HEARTH_PYTHON_EXECUTABLE={}",
            python.executable().unwrap_or("")
        );
        println!(
            "cargo:rustc-env=HEARTH_PYTHON_LIBRARY={}",
            python.lib_dir().unwrap_or("")
        );
        println!("cargo::metadata=library={}", python.lib_dir().unwrap_or(""));
    }
}
