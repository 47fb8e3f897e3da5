//! Tells the crate, as `Py_GIL_DISABLED`, whether the interpreter it is built for runs without a GIL.

fn main() {
    #[cfg(feature = "python")]
    pyo3_build_config::use_pyo3_cfgs();
    println!("cargo:rustc-check-cfg=cfg(Py_GIL_DISABLED)");
}
