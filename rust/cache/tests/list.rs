//! The cache compared with a list: the same answers, the same evictions, after any sequence of calls.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Call {
    Get(u32),
    Peek(u32),
    Put(u32, u64),
    Remove(u32),
    Clear,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        8 => (0..12_u32).prop_map(Call::Get),
        2 => (0..12_u32).prop_map(Call::Peek),
        8 => (0..12_u32, any::<u64>()).prop_map(|(key, value)| Call::Put(key, value)),
        1 => (1..12_u32).prop_map(Call::Remove),
        1 => Just(Call::Clear),
    ]
}

/// The model: the first element is the most recent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct List(Vec<(u32, u64)>);

impl List {
    fn take(&mut self, key: u32) -> Option<(u32, u64)> {
        let position = self.0.iter().position(|(stored, _)| *stored == key)?;
        Some(self.0.remove(position))
    }

    fn get(&mut self, key: u32) -> Option<u64> {
        let entry = self.take(key)?;
        self.0.insert(0, entry);
        Some(entry.1)
    }

    fn put(&mut self, capacity: Capacity, key: u32, value: u64) -> Put<u32, u64> {
        let removed = |(key, value)| Removed { hash: hash(key), key, value: Some(value) };
        let mut put = Put { stored: true, removed: Vec::new(), evicted: Evicted::new() };
        put.removed.extend(self.take(key).map(removed));
        if capacity.bytes.is_some_and(|most| weight(value) > most.get()) {
            put.removed.push(removed((key, value)));
            return Put { stored: false, ..put };
        }
        self.0.insert(0, (key, value));
        while self.is_over(capacity) {
            put.evicted.extend(self.0.pop().map(removed));
        }
        put
    }

    fn is_over(&self, capacity: Capacity) -> bool {
        capacity.entries.is_some_and(|most| self.0.len() > most.get())
            || capacity.bytes.is_some_and(|most| self.weight() > most.get())
    }

    fn weight(&self) -> u64 {
        self.0.iter().map(|(_, value)| weight(*value)).sum()
    }
}

/// A hundred calls each; more than proptest's own number, since they cost little.
fn sequences() -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig { cases: asked.cases.max(1_024), ..asked }
}

proptest! {
    #![proptest_config(sequences())]

    #[test]
    fn any_sequence_of_calls_gives_what_a_list_gives(
        entries in prop::sample::select(vec![0_usize, 1, 2, 3, 8, 64]),
        bytes in prop::sample::select(vec![0_u64, 1, 5, 20, 100]),
        calls in prop::collection::vec(call(), 1..200),
    ) {
        let (ours, mut list) = (bounded(entries, bytes), List::default());
        let asked = calls.len() as u64;
        for call in calls {
            match call {
                Call::Get(key) => prop_assert_eq!(get(&ours, key), list.get(key)),
                Call::Peek(key) => {
                    let listed = list.0.iter().find(|(stored, _)| *stored == key);
                    prop_assert_eq!(peek(&ours, key), listed.map(|(_, value)| *value));
                }
                Call::Put(key, value) => {
                    prop_assert_eq!(put(&ours, key, value), list.put(ours.capacity(), key, value));
                }
                Call::Remove(factor) => {
                    let before = list.0.len();
                    list.0.retain(|(key, _)| key % factor != 0);
                    prop_assert_eq!(remove(&ours, |key| key % factor == 0), before - list.0.len());
                    // Nothing here approves of the rest, so it is put again.
                    let mut rest = list.0.clone();
                    rest.reverse();
                    for (key, value) in rest {
                        put(&ours, key, value);
                    }
                }
                Call::Clear => {
                    prop_assert_eq!(ours.clear().len(), list.0.len());
                    list.0.clear();
                }
            }
            validate(&ours);
            prop_assert_eq!(ours.len(), list.0.len());
            prop_assert_eq!(ours.weight(), list.weight());
        }
        crate::proof::done(asked, "operations");
    }
}
