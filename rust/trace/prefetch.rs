//! Asks for memory before it is written.

use crate::sync::SharedU64;

/// Has this processor take the line of `word` from whichever cache has it, without waiting for it. The
/// line was read elsewhere since this thread wrote it last, so without this the next atomic exchange
/// waits for it.
#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
#[inline(always)]
#[allow(unsafe_code)]
pub fn for_writing(word: &SharedU64) {
    // SAFETY: a prefetch reads and writes nothing and never faults; processors that don't know it do
    // nothing for its code.
    unsafe {
        std::arch::asm!(
            "prefetchw [{word}]",
            word = in(reg) std::ptr::from_ref(word),
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Does nothing: here the processor isn't asked.
#[cfg(not(all(target_arch = "x86_64", not(any(loom, shuttle, miri)))))]
#[inline(always)]
pub fn for_writing(_word: &SharedU64) {}
