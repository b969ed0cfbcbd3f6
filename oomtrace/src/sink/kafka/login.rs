//! Who asks: the messages of SASL, in turn with the broker's.

use rsasl::{
    callback::{Context, Request, SessionCallback, SessionData},
    config::SASLConfig,
    mechanisms::scram::properties::Iterations,
    mechname::Mechname,
    prelude::{SASLClient, Session, SessionError},
    property::{AuthId, Password},
};

use super::Mechanism;
use crate::tls::{Error, Secret};

/// A broker that asks for more work than this is none; Kafka's own take 16384 rounds at most.
const MOST_ROUNDS: u32 = 1 << 20;

/// As whom.
pub struct Login {
    pub mechanism: Mechanism,
    pub username: String,
    pub password: Secret,
}

impl Mechanism {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl Login {
    /// Begins; the password is read anew.
    pub fn begin(&self) -> Result<Exchange, Error> {
        let answers = Answers {
            username: self.username.clone(),
            password: self.password.read()?.trim_ascii().to_vec(),
        };
        let wrong = |error: &dyn std::fmt::Display| Error::Credentials(format!("SASL: {error}"));
        let config = SASLConfig::builder()
            .with_default_mechanisms()
            .with_callback(answers)
            .map_err(|error| wrong(&error))?;
        let name = Mechname::parse(self.mechanism.name().as_bytes());
        let name = name.map_err(|error| wrong(&error))?;
        let session = SASLClient::new(config).start_suggested(&[name]);
        Ok(Exchange(session.map_err(|error| wrong(&error))?))
    }
}

/// Messages to and fro.
pub struct Exchange(Session);

impl Exchange {
    /// What to send after the broker's answer, and whether it is the last; nothing when all is well.
    pub fn step(&mut self, answer: Option<&[u8]>) -> Result<Option<(Vec<u8>, bool)>, String> {
        // The crate cuts two bytes off each part of an answer, and looks not whether they are there.
        let cut = |answer: &[u8]| answer.split(|it| *it == b',').any(|part| part.len() < 2);
        if answer.is_some_and(cut) {
            return Err("its answer is none of SASL".to_owned());
        }
        let mut message = Vec::new();
        let state = self.0.step(answer, &mut message);
        let state = state.map_err(|error| match error {
            SessionError::MechanismError(error) => error.to_string(),
            SessionError::MutualAuthenticationFailed => {
                "the broker does not know the password either".to_owned()
            }
            error => error.to_string(),
        })?;
        Ok(state
            .has_sent_message()
            .then(|| (message, state.is_finished())))
    }
}

/// What the messages are made of.
struct Answers {
    username: String,
    password: Vec<u8>,
}

impl SessionCallback for Answers {
    fn callback(
        &self,
        _: &SessionData,
        context: &Context<'_>,
        request: &mut Request<'_>,
    ) -> Result<(), SessionError> {
        if context
            .get_ref::<Iterations>()
            .is_some_and(|rounds| *rounds > MOST_ROUNDS)
        {
            return Err(SessionError::Boxed("it asks for too much work".into()));
        }
        request
            .satisfy::<AuthId>(&self.username)?
            .satisfy::<Password>(&self.password)?;
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Begins, and answers with `MINE` for what the client made up.
    fn begun(answer: &str) -> (Exchange, String) {
        let login = Login {
            mechanism: Mechanism::ScramSha512,
            username: "a,b=c".to_owned(),
            password: Secret::Inline(b"x\n".to_vec()),
        };
        let mut exchange = login.begin().unwrap();
        let (first, last) = exchange.step(None).unwrap().unwrap();
        let first = String::from_utf8(first).unwrap();
        let mine = first.strip_prefix("n,,n=a=2Cb=3Dc,r=").unwrap();
        assert!(!last);
        (exchange, answer.replace("MINE", mine))
    }

    /// An answer that is to another question, asks for too much work or for none, or is cut off.
    #[test]
    fn answers_that_are_wrong() {
        for answer in [
            "",
            "r",
            "r=MINE1",
            "r=MINE1,s",
            "r=MINE1,s=AAAA",
            "r=MINE1,s=AAAA,i",
            "r=MINE1,s=AAAA,i=",
            "r=MINE1,s=AAAA,i=0",
            "r=MINE1,s=AAAA,i=4000000000",
            "r=MINE1,s=?,i=1",
            "r=yours,s=AAAA,i=4096",
            "e=unknown-user",
        ] {
            let (mut exchange, answer) = begun(answer);
            assert!(exchange.step(Some(answer.as_bytes())).is_err(), "{answer}");
        }
        for answer in ["", "v", "v=AAAA", "e", "e=invalid-proof", "welcome"] {
            let (mut exchange, first) = begun("r=MINE1,s=AAAA,i=4096");
            let (_, last) = exchange.step(Some(first.as_bytes())).unwrap().unwrap();
            assert!(!last);
            assert!(exchange.step(Some(answer.as_bytes())).is_err(), "{answer}");
        }
    }
}
