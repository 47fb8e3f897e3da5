//! What becomes of a flight, and of those who wait for it.

use super::*;
use crate::stats::Counter;
use std::sync::Barrier;
use std::time::Instant;

type Numbers = Flights<u32, u64>;

fn join(flights: &Numbers, key: u32) -> Joined<'_, u32, u64> {
    let same = |_: EntryId, stored: &u32| match *stored == key {
        true => Match::Yes,
        false => Match::No,
    };
    flights.join(7, same, || key).unwrap()
}

fn own(flights: &Numbers, key: u32) -> Ticket<'_, u32, u64> {
    match join(flights, key) {
        Joined::Mine(ticket) => ticket,
        Joined::Theirs(_) => panic!("somebody else flies {key}"),
    }
}

fn their(flights: &Numbers, key: u32) -> Arc<Flight<u64>> {
    match join(flights, key) {
        Joined::Theirs(flight) => flight,
        Joined::Mine(_) => panic!("nobody flies {key}"),
    }
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn one_thread_computes_and_all_get_its_value() {
    let (flights, computed) = (Numbers::default(), Counter::default());
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                match join(&flights, 1) {
                    Joined::Mine(ticket) => {
                        computed.add(1);
                        std::thread::sleep(Duration::from_millis(50));
                        ticket.finish(|| 42);
                    }
                    Joined::Theirs(flight) => {
                        let began = Instant::now();
                        assert_eq!(flight.wait(LONG, |value| *value), Ended::Value(42));
                        assert!(began.elapsed() < LONG, "it was woken");
                    }
                }
            });
        }
    });
    assert_eq!(computed.get(), 1);
    assert!(flights.is_empty());
}

#[test]
fn a_dropped_ticket_fails_the_flight_and_the_next_to_come_owns_a_new_one() {
    let flights = Numbers::default();
    let ticket = own(&flights, 1);
    let flight = their(&flights, 1);
    assert_eq!(flight.wait(Duration::ZERO, |value| *value), Ended::No);
    drop(ticket);
    assert_eq!(flight.wait(LONG, |value| *value), Ended::Failed);
    own(&flights, 1).finish(|| 2);
    assert!(flights.is_empty());
}

#[test]
fn a_panic_in_the_computation_fails_the_flight() {
    let flights = Numbers::default();
    let panicked = std::thread::scope(|scope| {
        let computing = scope.spawn(|| {
            let _ticket = own(&flights, 1);
            panic!("no value");
        });
        computing.join().is_err()
    });
    assert!(panicked && flights.is_empty());
}

#[test]
fn a_thread_does_not_wait_for_itself() {
    let flights = Numbers::default();
    let _ticket = own(&flights, 1);
    assert_eq!(flights.begin_wait(&their(&flights, 1)).unwrap_err(), Refused::Own);
}

#[test]
fn the_last_edge_of_a_cycle_is_refused() {
    let flights = Numbers::default();
    let (owning, waiting) = (Barrier::new(3), Barrier::new(3));
    let refused = std::thread::scope(|scope| {
        let waiters = [(1, 2), (2, 3)].map(|(mine, other)| {
            let (flights, owning, waiting) = (&flights, &owning, &waiting);
            scope.spawn(move || {
                let ticket = own(flights, mine);
                owning.wait();
                let flight = their(flights, other);
                let edge = flights.begin_wait(&flight).unwrap();
                waiting.wait();
                let ended = flight.wait(LONG, |value| *value);
                drop(edge);
                ticket.finish(|| u64::from(mine));
                ended
            })
        });
        let ticket = own(&flights, 3);
        owning.wait();
        waiting.wait();
        let refused = flights.begin_wait(&their(&flights, 1)).err();
        ticket.finish(|| 3);
        for waiter in waiters {
            waiter.join().unwrap();
        }
        refused
    });
    assert_eq!(refused, Some(Refused::Cycle));
}

#[test]
fn who_has_waited_may_be_waited_for() {
    let flights = Numbers::default();
    let ticket = own(&flights, 1);
    let flight = their(&flights, 1);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let ticket = own(&flights, 2);
            drop(flights.begin_wait(&flight).unwrap());
            std::mem::forget(ticket);
        });
        other.join().unwrap();
    });
    assert!(flights.begin_wait(&their(&flights, 2)).is_ok());
    ticket.finish(|| 1);
}

#[test]
fn who_waits_for_what_has_ended_is_waited_for() {
    let flights = Numbers::default();
    let (joined, waiting, done) = (Barrier::new(2), Barrier::new(2), Barrier::new(2));
    let ticket = own(&flights, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mine = own(&flights, 2);
            joined.wait();
            joined.wait();
            mine.finish(|| 2);
            let edge = flights.begin_wait(&their(&flights, 1)).unwrap();
            waiting.wait();
            done.wait();
            drop(edge);
        });
        joined.wait();
        let flight = their(&flights, 2);
        joined.wait();
        waiting.wait();
        ticket.finish(|| 1);
        assert!(flights.begin_wait(&flight).is_ok(), "its value is there");
        done.wait();
    });
}

#[test]
fn keys_of_one_hash_are_flights_of_their_own() {
    let flights = Numbers::default();
    let (one, two) = (own(&flights, 1), own(&flights, 2));
    assert_eq!((flights.len(), flights.is_empty()), (2, false));
    let before = flights.ended();
    two.finish(|| 2);
    assert_eq!(flights.ended(), before + 1);
    assert_eq!(their(&flights, 1).wait(Duration::ZERO, |value| *value), Ended::No);
    drop(one);
    assert_eq!((flights.ended(), flights.is_empty()), (before + 2, true));
}

#[test]
fn every_flight_is_visited_until_one_fails() {
    let flights = Numbers::default();
    let _tickets = [1, 2, 3].map(|key| own(&flights, key));
    let mut seen = Vec::new();
    let visit = |key: &u32| {
        seen.push(*key);
        if seen.len() == 2 { Err("enough") } else { Ok(()) }
    };
    assert_eq!(flights.try_for_each(visit), Err("enough"));
    assert!(seen.len() == 2 && seen[0] != seen[1], "in any order: {seen:?}");
}

#[test]
fn a_child_process_forgets_its_parents_flights() {
    let flights = Numbers::default();
    std::mem::forget(own(&flights, 1));
    flights.table.with(|table| table.process += 1);
    own(&flights, 1).finish(|| 1);
}
