//! Stands in for the sources of pods where the program was built without them.

use std::{io, sync::Arc, time::Duration};

use crate::{
    event,
    incident::{Directory, Known, News, Question},
};

/// Nothing to choose.
#[derive(Clone, Debug, Default)]
pub struct Options;

/// Knows nobody; there is none.
#[derive(Debug)]
pub enum Pods {}

impl Pods {
    /// Never called.
    pub fn status(&self) -> event::Kubernetes {
        match *self {}
    }
}

impl Directory for Pods {
    fn look_up(&self, _: &[u8], _: bool) -> Known {
        match *self {}
    }
}

/// Never started.
#[derive(Debug)]
pub struct Kubernetes {
    /// There are none.
    pub pods: Arc<Pods>,
}

impl Kubernetes {
    /// There is nothing to start.
    ///
    /// # Errors
    /// Never.
    pub const fn start(_: Options) -> io::Result<Option<Self>> {
        Ok(None)
    }

    /// Never called.
    pub fn settle(&self, _: Duration) {
        match *self.pods {}
    }

    /// Never called.
    pub fn ask(&self, _: Question) -> bool {
        match *self.pods {}
    }

    /// Never called.
    pub async fn next(&mut self) -> News {
        match *self.pods {}
    }
}
