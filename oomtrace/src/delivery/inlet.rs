//! Between the tracer, which must not wait, and the thread that fills the queues.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{Item, SinkSettings, take_some};
use crate::sink::QUEUE_BYTES;

/// Messages that are taken at once, at most.
const AT_ONCE: usize = 256;
/// Bytes that are, unless one is longer.
const BYTES_AT_ONCE: usize = 256 << 10;

/// What is handed over.
#[derive(Debug)]
pub enum Message {
    /// A record.
    Record(Item),
    /// Other sinks, from here on.
    Sinks(Vec<SinkSettings>),
}

impl Message {
    fn bytes(&self) -> usize {
        match self {
            Self::Record(record) => record.len(),
            Self::Sinks(_) => 0,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
    /// What was taken last is not in the queues yet.
    busy: bool,
    closed: bool,
}

/// A bounded queue: the bound is kept by who fills it.
#[derive(Debug, Default)]
pub struct Inlet {
    state: Mutex<State>,
    filled: Condvar,
    moved: Notify,
}

impl Inlet {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, message: Message) {
        let mut state = self.state();
        state.bytes += message.bytes();
        state.messages.push_back(message);
        let first = state.messages.len() == 1;
        drop(state);
        // Whoever takes does not wait while something is there, and to wake is a system call.
        if first {
            self.filled.notify_one();
        }
    }

    pub fn has_room(&self) -> bool {
        self.bytes() < QUEUE_BYTES
    }

    pub fn bytes(&self) -> usize {
        self.state().bytes
    }

    /// Whether all that was pushed is in the queues.
    pub fn is_idle(&self) -> bool {
        let state = self.state();
        state.messages.is_empty() && !state.busy
    }

    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Nothing more will come.
    pub fn close(&self) {
        self.state().closed = true;
        self.filled.notify_one();
    }

    /// What is there, as soon as something is; `None` when nothing more will come. What was taken
    /// before is in the queues.
    pub fn take(&self) -> Option<Vec<Message>> {
        let mut state = self.state();
        state.busy = false;
        self.moved.notify_one();
        while state.messages.is_empty() {
            if state.closed {
                return None;
            }
            state = self
                .filled
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let (taken, bytes) = take_some(&mut state.messages, AT_ONCE, BYTES_AT_ONCE, Message::bytes);
        state.bytes -= bytes;
        state.busy = true;
        // A long queue is not kept once it is taken.
        if state.messages.is_empty() && state.messages.capacity() > AT_ONCE {
            state.messages = VecDeque::new();
        }
        Some(taken)
    }
}
