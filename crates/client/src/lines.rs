//! Answers in lines: what happens, and how far something is that takes long.

use std::marker::PhantomData;
use std::time::Duration;

use control::api::StreamLine;
use control::channel::LineReader;
use pool::Progress;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::asking::{Form, Request};
use crate::http::Answer;

/// What comes line by line, without an end of its own: dropped, it is over.
pub struct Lines<T> {
    answer: Answer,
    form: Form,
    request: Request,
    reader: LineReader,
    /// How long it may be silent; without it for ever.
    silence: Option<Duration>,
    lines: PhantomData<fn() -> T>,
}

/// Something that takes long, as it goes on. What was begun goes on also where nobody asks how far it is.
pub struct Work<T> {
    lines: Lines<StreamLine<T>>,
}

/// How far it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// It goes on.
    Going(News),
    /// It is done.
    Done(T),
}

/// News of an operation that takes long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// How far it is.
    Progress(Progress),
    /// What it waits for.
    Waiting(String),
}

impl<T: DeserializeOwned> Lines<T> {
    pub(crate) fn new(
        answer: Answer,
        form: Form,
        request: Request,
        silence: Option<Duration>,
    ) -> Lines<T> {
        Lines { answer, form, request, reader: LineReader::default(), silence, lines: PhantomData }
    }

    /// The next one. A call that is given up loses nothing.
    pub async fn next(&mut self) -> Result<T, Error> {
        let Lines { answer, form, request, reader, silence, .. } = self;
        let line = async {
            loop {
                let line = reader.next_line();
                if let Some(line) = line.map_err(|error| Error::NotUnderstood(error.to_string()))? {
                    return Ok::<_, Error>(line);
                }
                let more = answer.more().await.map_err(|error| request.failed(error))?;
                reader.push(&more.ok_or_else(|| request.ended())?);
            }
        };
        // Parts of a line tell nobody anything.
        let line = request.within(*silence, line).await??;
        form.read(&line)
    }
}

impl<T: DeserializeOwned> Work<T> {
    pub(crate) fn new(lines: Lines<StreamLine<T>>) -> Work<T> {
        Work { lines }
    }

    /// What is told of it next, every few seconds; nothing comes after [`Step::Done`].
    pub async fn next(&mut self) -> Result<Step<T>, Error> {
        Ok(match self.lines.next().await? {
            StreamLine::Progress(progress) => Step::Going(News::Progress(progress)),
            StreamLine::Waiting(why) => Step::Going(News::Waiting(why)),
            StreamLine::Result(value) => Step::Done(value),
            StreamLine::Error(error) => return Err(error.into()),
        })
    }
}
