//! Does nothing if the feature `python` is disabled. If it is enabled, this script does two things:
//!
//! - It adds the folder of the Python library to the run path of this package's tests.
//! - It passes version, executable and library folder of that Python to the code, and the library
//!   folder also to the build script of the binary.

fn main() {
    #[cfg(feature = "python")]
    {
        pyo3_build_config::add_libpython_rpath_link_args();
        let python = pyo3_build_config::get();
        if !python.shared() {
            println!(
                "cargo::error={} has no shared library, and hearth needs one; set \
                 PYO3_PYTHON=/path/to/python to a Python that has one (Debian: apt-get install \
                 python3-dev, then /usr/bin/python3; pyenv: build with \
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
