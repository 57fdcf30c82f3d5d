//! Limits on the messages of a server before the login. Until then nothing proves that the server is the right one.

use std::fmt;
use std::io;

use super::require_auth::{Method, RequireAuth};

/// The longest message before the login has succeeded, in bytes. PostgreSQL sends no longer one by then, so a longer
/// one would only fill our memory and ends the connection.
const LONGEST_MESSAGE: usize = 64 << 10;
/// The most bytes of all messages before the login has succeeded, including notices and parameters. More end the
/// connection.
const MOST_BYTES: usize = 1 << 20;

/// A message's type and its length.
const HEAD: usize = 5;
/// The number of bytes that tell the kind of an authentication request.
const CODE: usize = 4;

/// The reason for breaking off a login. It is the cause of an [`io::Error`].
#[derive(Debug)]
pub struct LoginRefusal(pub String);

impl fmt::Display for LoginRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LoginRefusal {}

impl LoginRefusal {
    /// Returns the refusal that caused this error, if one did.
    pub fn of(error: &io::Error) -> Option<&LoginRefusal> {
        error.get_ref()?.downcast_ref()
    }
}

/// Counts the bytes before the login has succeeded.
#[derive(Debug)]
pub struct LoginBudget {
    left: usize,
}

impl Default for LoginBudget {
    fn default() -> LoginBudget {
        LoginBudget { left: MOST_BYTES }
    }
}

impl LoginBudget {
    /// Checks that a message of `length` bytes, its type included, is within the limits.
    ///
    /// # Errors
    /// Fails with a [`LoginRefusal`] if the message is too long.
    pub fn admit(&self, length: usize) -> io::Result<()> {
        if length <= LONGEST_MESSAGE.min(self.left) {
            return Ok(());
        }
        let text = "what answers there sends more before a login than PostgreSQL does; look at host and port";
        Err(io::Error::other(LoginRefusal(text.to_owned())))
    }

    /// Counts a message that has arrived.
    pub fn spend(&mut self, length: usize) {
        self.left = self.left.saturating_sub(length);
    }
}

/// Follows the messages of a login that `tokio_postgres` performs, and breaks the login off before `tokio_postgres`
/// sees a message that it must not answer.
pub struct LoginWatch {
    require_auth: RequireAuth,
    budget: LoginBudget,
    /// The beginning of the current message, as far as it matters.
    start: Vec<u8>,
    /// The number of bytes of the current message that are still to come.
    rest: usize,
    /// Whether the server has asked for a proof.
    asked: bool,
    /// Whether the server has accepted the login.
    let_in: bool,
}

impl LoginWatch {
    pub fn new(require_auth: RequireAuth) -> LoginWatch {
        let budget = LoginBudget::default();
        LoginWatch { require_auth, budget, start: Vec::new(), rest: 0, asked: false, let_in: false }
    }

    /// Examines the bytes that have arrived; returns true once the login has succeeded.
    ///
    /// # Errors
    /// Fails with a [`LoginRefusal`] if the server sends a message that this login does not allow.
    pub fn look(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        while let Some((byte, later)) = bytes.split_first() {
            if self.start.len() >= HEAD && !self.wants_code() {
                let skipped = self.rest.min(bytes.len());
                self.rest -= skipped;
                bytes = &bytes[skipped..];
            } else {
                self.start.push(*byte);
                bytes = later;
                self.take_start()?;
            }
            if self.start.len() >= HEAD && self.rest == 0 {
                let ready = self.start[0] == b'Z';
                self.start.clear();
                if ready && self.let_in {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn wants_code(&self) -> bool {
        self.start[0] == b'R' && self.start.len() < HEAD + CODE && self.rest > 0
    }

    /// Handles the byte that was just added to `start`.
    fn take_start(&mut self) -> io::Result<()> {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        match self.start.len() {
            HEAD => {
                let length = number(&self.start[1..]);
                self.budget.admit(length.saturating_add(1))?;
                self.budget.spend(length + 1);
                self.rest = length.saturating_sub(HEAD - 1);
            }
            longer if longer > HEAD => {
                self.rest -= 1;
                if longer == HEAD + CODE {
                    self.judge(number(&self.start[HEAD..]))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks an authentication request. `tokio_postgres` refuses the kinds that are unknown here.
    fn judge(&mut self, code: usize) -> io::Result<()> {
        let method = match code {
            0 if self.asked => None,
            0 => Some(Method::None),
            3 => Some(Method::Password),
            5 => Some(Method::Md5),
            7 => Some(Method::Gss),
            9 => Some(Method::Sspi),
            10 => Some(Method::Scram),
            _ => None,
        };
        self.let_in |= code == 0;
        self.asked = true;
        let allowed = method.map_or(Ok(()), |method| self.require_auth.allow(method));
        allowed.map_err(|text| io::Error::other(LoginRefusal(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
    }

    /// Passes the bytes to the guard in pieces of the given size.
    fn look(require_auth: &str, bytes: &[u8], size: usize) -> io::Result<bool> {
        let required = Some(require_auth).filter(|text| !text.is_empty());
        let mut watch = LoginWatch::new(RequireAuth::parse(required).unwrap());
        bytes.chunks(size).try_fold(false, |_, piece| watch.look(piece))
    }

    fn asks(code: u32, more: &[u8]) -> Vec<u8> {
        message(b'R', &[&code.to_be_bytes(), more].concat())
    }

    #[test]
    fn a_login_is_followed_to_its_end_however_it_is_cut() {
        let steps = [
            asks(10, b"SCRAM-SHA-256\0\0"),
            asks(11, b"r=x"),
            asks(12, b"v=x"),
            asks(0, b""),
            message(b'S', b"server_version\x0018\0"),
            message(b'N', &[b'x'; 1000]),
            message(b'Z', b"I"),
        ];
        let whole = steps.concat();
        for size in 1..whole.len() {
            assert!(look("scram-sha-256", &whole, size).unwrap(), "{size}");
            assert!(!look("", &whole[..whole.len() - 1], size).unwrap(), "{size}");
        }
        assert!(!look("", &message(b'Z', b"I"), 1).unwrap(), "nobody has let us in");
    }

    #[test]
    fn what_require_auth_forbids_is_not_answered() {
        for (list, code, may) in [
            ("scram-sha-256", 3, false),
            ("scram-sha-256", 5, false),
            ("scram-sha-256", 0, false),
            ("scram-sha-256", 10, true),
            ("!password,!md5", 3, false),
            ("!password,!md5", 5, false),
            ("!password,!md5", 0, true),
            ("!none", 0, false),
            ("none", 0, true),
            ("none", 10, false),
            ("password", 3, true),
            ("", 3, true),
        ] {
            let asked = asks(code, b"salt");
            for size in [1, 3, asked.len()] {
                assert_eq!(look(list, &asked, size).is_ok(), may, "{list} {code}");
            }
        }
    }

    #[test]
    fn long_messages_and_many_are_refused() {
        let long = [&b"N"[..], &(LONGEST_MESSAGE as u32).to_be_bytes()].concat();
        let error = look("", &long, 1).unwrap_err();
        assert!(LoginRefusal::of(&error).is_some(), "{error}");
        assert!(look("", &message(b'N', &vec![b'x'; LONGEST_MESSAGE - HEAD]), 4096).is_ok());
        assert!(look("", &message(b'N', &[b'x'; 50_000]).repeat(20), 4096).is_ok());
        assert!(look("", &message(b'N', &[b'x'; 50_000]).repeat(22), 4096).is_err());
    }
}
