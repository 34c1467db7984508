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
        loop {
            let line =
                self.reader.next_line().map_err(|error| Error::NotUnderstood(error.to_string()))?;
            if let Some(line) = line {
                return self.form.read(&line);
            }
            let more = self.request.within(self.silence, self.answer.more()).await?;
            let more = more.map_err(|error| self.request.failed(error))?;
            self.reader.push(&more.ok_or_else(|| self.request.ended())?);
        }
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
