//! What services and the process that serves FTP say to each other, in the form of [`crate::channel`]. Services ask
//! for servers; the process, which sees no file and no engine, tells them what it has to know, and is answered by a
//! request.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A request to the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum FtpRequest {
    /// Answered with [`crate::api::ProcessState`].
    Process,
    /// Serve the volume whose root comes with the line, to those who connect to the socket that comes as the second;
    /// answered with null.
    Serve {
        /// The server, by a number that none had before.
        server: u64,
    },
    /// End a server; answered with whether all of its volume is let go.
    Stop {
        /// Which.
        server: u64,
    },
    /// The answer to a question; answered with null.
    Answer {
        /// Which.
        question: u64,
        /// What there is to say.
        answer: FtpAnswer,
    },
}

/// What the process tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FtpNews {
    /// It has to know something.
    Asked {
        /// By this number it is answered.
        question: u64,
        /// What.
        what: FtpQuestion,
    },
    /// A server has ended by itself.
    Ended {
        /// Which.
        server: u64,
    },
}

/// What the process has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "kebab-case")]
pub enum FtpQuestion {
    /// Whether the volume of a server may be served at this moment; answered with [`FtpAnswer::May`].
    MayServe {
        /// The server.
        server: u64,
    },
    /// The file of users; answered with [`FtpAnswer::Users`].
    Users,
    /// Certificate and key; answered with [`FtpAnswer::Certificate`].
    Certificate,
}

/// The answer to an [`FtpQuestion`]; an error is for the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FtpAnswer {
    /// Whether it may.
    May(bool),
    /// What the file holds.
    Users(Result<Secret, String>),
    /// What the two files hold, PEM.
    Certificate(Result<(Secret, Secret), String>),
}

/// What isn't shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::channel::{ReplyLine, RequestLine, to_line};

    #[test]
    fn every_line_survives_and_shows_no_secret() {
        let secret = || Secret("-----BEGIN".into());
        let answers = [
            FtpAnswer::May(true),
            FtpAnswer::Users(Ok(secret())),
            FtpAnswer::Users(Err("no file".into())),
            FtpAnswer::Certificate(Ok((secret(), secret()))),
        ];
        let answers = answers.map(|answer| FtpRequest::Answer { question: 7, answer });
        let others =
            [FtpRequest::Process, FtpRequest::Serve { server: 1 }, FtpRequest::Stop { server: 1 }];
        for request in others.into_iter().chain(answers) {
            let line = RequestLine { id: 1, request };
            assert!(!format!("{line:?}").contains("BEGIN"));
            let read: RequestLine<FtpRequest> = serde_json::from_slice(&to_line(&line)).unwrap();
            assert_eq!(read, line);
        }
        let questions =
            [FtpQuestion::MayServe { server: 1 }, FtpQuestion::Users, FtpQuestion::Certificate];
        let asked = questions.map(|what| FtpNews::Asked { question: 1, what });
        for news in asked.into_iter().chain([FtpNews::Ended { server: 3 }]) {
            let line = ReplyLine::Event(news);
            let read: ReplyLine<FtpNews> = serde_json::from_slice(&to_line(&line)).unwrap();
            assert_eq!(read, line);
        }
    }
}
