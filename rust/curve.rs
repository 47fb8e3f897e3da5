//! How often a cache of any size would have missed, from one pass over the keys that were asked for.
//!
//! An LRU cache of n entries holds the n keys that were used last, so a use hits at every size from
//! its *stack distance* on: the number of distinct keys used since its last use, itself included
//! (Mattson et al., 1970). A Fenwick tree over the order of last uses counts them in logarithmic
//! time. When its positions are used up the live ones are numbered anew, so memory follows the number
//! of distinct keys, not that of uses. For bytes there is no such order of inclusion, so each size
//! that is asked for is simulated.

use std::collections::HashMap;

/// Uses, and the seconds that computing their values takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// Seconds.
    pub seconds: f64,
}

impl Amount {
    fn add(&mut self, seconds: f64) {
        self.count += 1;
        self.seconds += seconds;
    }
}

/// Dense numbers for keys, and what computing each took the last time it was computed.
#[derive(Default)]
pub struct Keys {
    numbers: HashMap<u128, u32>,
    seconds: Vec<f64>,
}

impl Keys {
    /// The number of `key`, and the seconds that a miss of it costs: `computed` if it was computed
    /// now, else what is known from before, else nothing.
    ///
    /// # Panics
    /// With more than 2³² keys.
    pub fn meet(&mut self, key: u128, computed: Option<f64>) -> (u32, f64) {
        let fresh = u32::try_from(self.seconds.len()).expect("at most 2^32 keys");
        let number = *self.numbers.entry(key).or_insert(fresh);
        if number == fresh {
            self.seconds.push(0.0);
        }
        let known = &mut self.seconds[number as usize];
        *known = computed.unwrap_or(*known);
        (number, *known)
    }
}

const UNUSED: u32 = u32::MAX;
const LEAST_POSITIONS: usize = 1 << 10;

/// Stack distances of all uses so far.
#[derive(Default)]
pub struct Distances {
    /// For each key the position of its last use.
    positions: Vec<u32>,
    /// For each position the key that was last used there, or `UNUSED`.
    owners: Vec<u32>,
    /// A Fenwick tree: how many positions up to one are live.
    tree: Vec<u32>,
    next: usize,
    live: u32,
    /// Uses by their distance, from 1 on.
    hits: Vec<Amount>,
    first: Amount,
}

impl Distances {
    /// Counts a use of the key with the number `key`; numbers are dense.
    pub fn touch(&mut self, key: u32, seconds: f64) {
        if self.next == self.owners.len() {
            self.renumber();
        }
        let at = key as usize;
        if at >= self.positions.len() {
            self.positions.resize(at + 1, UNUSED);
        }
        let position = self.positions[at];
        if position == UNUSED {
            self.first.add(seconds);
            self.live += 1;
        } else {
            let distance = (self.live - self.up_to(position as usize)) as usize;
            if distance >= self.hits.len() {
                self.hits.resize(distance + 1, Amount::default());
            }
            self.hits[distance].add(seconds);
            self.change(position as usize, u32::MAX);
            self.owners[position as usize] = UNUSED;
        }
        self.settle(key);
    }

    /// Uses that hit at each distance: those at index d hit at every size above d.
    #[must_use]
    pub fn hits(&self) -> &[Amount] {
        &self.hits
    }

    /// First uses, which miss at every size.
    #[must_use]
    pub const fn first(&self) -> Amount {
        self.first
    }

    #[allow(clippy::cast_possible_truncation)] // `renumber` keeps positions below 2^32.
    fn settle(&mut self, key: u32) {
        let position = self.next;
        self.next += 1;
        self.owners[position] = key;
        self.positions[key as usize] = position as u32;
        self.change(position, 1);
    }

    fn change(&mut self, position: usize, by: u32) {
        let mut at = position + 1;
        while at < self.tree.len() {
            self.tree[at] = self.tree[at].wrapping_add(by);
            at += at & at.wrapping_neg();
        }
    }

    fn up_to(&self, position: usize) -> u32 {
        let (mut at, mut sum) = (position + 1, 0u32);
        while at > 0 {
            sum = sum.wrapping_add(self.tree[at]);
            at &= at - 1;
        }
        sum
    }

    fn renumber(&mut self) {
        let live: Vec<u32> = self.owners.iter().copied().filter(|&key| key != UNUSED).collect();
        let length = (2 * live.len()).max(LEAST_POSITIONS);
        self.owners = vec![UNUSED; length];
        self.tree = vec![0; length + 1];
        self.next = 0;
        for key in live {
            self.settle(key);
        }
    }
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    before: u32,
    after: u32,
    bytes: u64,
    is_in: bool,
}

/// A simulated LRU cache of a given number of bytes; a value that is larger is never kept.
pub struct ByteLru {
    max_bytes: u64,
    used: u64,
    nodes: Vec<Node>,
    newest: u32,
    oldest: u32,
    misses: Amount,
}

impl ByteLru {
    /// An empty cache.
    #[must_use]
    pub fn new(max_bytes: u64) -> Self {
        let (nodes, misses) = (Vec::new(), Amount::default());
        Self { max_bytes, used: 0, nodes, newest: NONE, oldest: NONE, misses }
    }

    /// What was missed so far.
    #[must_use]
    pub const fn misses(&self) -> Amount {
        self.misses
    }

    /// Counts a use; `bytes` is the weight that the value is stored with on a miss.
    pub fn touch(&mut self, key: u32, bytes: u64, seconds: f64) {
        let at = key as usize;
        if at >= self.nodes.len() {
            let absent = Node { before: NONE, after: NONE, bytes: 0, is_in: false };
            self.nodes.resize(at + 1, absent);
        }
        if self.nodes[at].is_in {
            self.take_out(key);
            self.put_first(key, self.nodes[at].bytes);
            return;
        }
        self.misses.add(seconds);
        if bytes <= self.max_bytes {
            while self.used > self.max_bytes - bytes {
                self.take_out(self.oldest);
            }
            self.put_first(key, bytes);
        }
    }

    fn take_out(&mut self, key: u32) {
        let node = self.nodes[key as usize];
        match node.before {
            NONE => self.newest = node.after,
            before => self.nodes[before as usize].after = node.after,
        }
        match node.after {
            NONE => self.oldest = node.before,
            after => self.nodes[after as usize].before = node.before,
        }
        self.used -= node.bytes;
        self.nodes[key as usize].is_in = false;
    }

    fn put_first(&mut self, key: u32, bytes: u64) {
        match self.newest {
            NONE => self.oldest = key,
            newest => self.nodes[newest as usize].before = key,
        }
        self.nodes[key as usize] = Node { before: NONE, after: self.newest, bytes, is_in: true };
        self.newest = key;
        self.used += bytes;
    }
}
