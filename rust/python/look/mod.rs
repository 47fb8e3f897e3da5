//! A look at a model in microseconds: whether it is built as it was, and its tensors are what they
//! were.
//!
//! All that is read is CPython's own (dictionaries, lists, classes) or a number in memory that was
//! tried out before; whatever can't be told so is told by the package in Python, with the same answer.
//!
//! Reading order: `model` (how it is built) with `tags` (dictionaries), `settings` and `code`;
//! `tensors` (where and of which version) and `content` (sums over memory).

mod code;
mod content;
mod model;
mod settings;
mod tags;
mod tensors;

pub(super) use content::MemorySums;
pub(super) use model::ModelLook;
pub(super) use tags::dict_tag;
pub(super) use tensors::TensorLook;
