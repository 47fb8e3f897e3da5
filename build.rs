//! Tells the crate about the interpreter it is built for: `Py_GIL_DISABLED` if it runs without a GIL,
//! `take_turns` if it has one, so that the threads which call the core take turns.

fn main() {
    println!("cargo:rustc-check-cfg=cfg(Py_GIL_DISABLED)");
    println!("cargo:rustc-check-cfg=cfg(take_turns)");
    #[cfg(feature = "python")]
    tell_about_interpreter();
}

#[cfg(feature = "python")]
fn tell_about_interpreter() {
    use pyo3_build_config::BuildFlag;

    pyo3_build_config::use_pyo3_cfgs();
    if !pyo3_build_config::get().build_flags().0.contains(&BuildFlag::Py_GIL_DISABLED) {
        println!("cargo:rustc-cfg=take_turns");
    }
}
