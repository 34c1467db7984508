//! Routes of what the supervisor tells: events, the pools' history, alerts.

use axum::body::Body;
use axum::extract::State;
use control::alerts::{AlertsConfig, AlertsReport, ChannelAnswer};
use control::api::{EventLine, Missed};
use control::channel::{EngineRequest, to_line};
use pool::HistoryEntry;
use tokio::sync::broadcast::error::RecvError;

use super::alerts::now_secs;
use super::api::{Answer, App, Json};
use super::channel_client::News;
use super::described::{Lines, Path};

/// What people must know who would hear of nothing.
pub(super) fn unheard(config: &AlertsConfig, report: &AlertsReport) -> Vec<String> {
    let mut warnings = Vec::new();
    let reached = report.channels.iter().any(|channel| channel.reaches_people);
    if !reached && !config.nobody {
        warnings.push(format!(
            "NOBODY IS TOLD WHEN A DISK DIES: there is no mailer ({}), and no webhook or command in [alerts] of \
             supervisor.toml; to have it so: nobody = true there",
            config.mail.sendmail.display()
        ));
    }
    for channel in &report.channels {
        let Some(why) = &channel.trouble else { continue };
        warnings.push(format!(
            "messages don't go out by {}: {why} ({} wait, {} are lost; try: etherpool alert test)",
            channel.name, channel.waiting, channel.lost
        ));
    }
    warnings
}

pub(super) async fn alerts(State(services): App) -> Json<AlertsReport> {
    Json(services.teller.report())
}

pub(super) async fn test(State(services): App) -> Json<Vec<ChannelAnswer>> {
    Json(services.teller.test().await)
}

pub(super) async fn history(
    State(services): App,
    Path(pool): Path<String>,
) -> Answer<Vec<HistoryEntry>> {
    Ok(Json(services.engine.call(EngineRequest::History { pool }).await?))
}

/// Everything that happens, as JSON lines, until the listener goes.
pub(super) async fn events(State(services): App) -> Lines<EventLine> {
    let news = services.engine.news();
    let lines = futures::stream::unfold(news, |mut news| async move {
        let line = match news.recv().await {
            Ok(News::Event(event)) => EventLine::of(event, now_secs()),
            Ok(News::Lost(count)) | Err(RecvError::Lagged(count)) => {
                EventLine::Missed(Missed::Lost { count })
            }
            Err(RecvError::Closed) => return None,
        };
        Some((Ok::<_, std::io::Error>(to_line(&line)), news))
    });
    Lines::new(Body::from_stream(lines))
}

#[cfg(test)]
mod tests {
    use control::alerts::ChannelReport;

    use super::*;

    #[test]
    fn it_is_loud_while_nobody_would_hear() {
        let journal = ChannelReport { name: "journal".into(), ..ChannelReport::default() };
        let mut report = AlertsReport { channels: vec![journal], ..AlertsReport::default() };
        let loud = unheard(&AlertsConfig::default(), &report);
        assert!(loud[0].starts_with("NOBODY IS TOLD WHEN A DISK DIES"), "{loud:?}");
        let meant = AlertsConfig { nobody: true, ..AlertsConfig::default() };
        assert!(unheard(&meant, &report).is_empty());
        let trouble = Some("it answered 500".to_owned());
        let name = "webhook http://h/".to_owned();
        let hook =
            ChannelReport { name, reaches_people: true, trouble, ..ChannelReport::default() };
        report.channels.push(hook);
        let loud = unheard(&AlertsConfig::default(), &report);
        assert_eq!(loud.len(), 1);
        assert!(loud[0].contains("webhook http://h/: it answered 500"), "{loud:?}");
    }
}
