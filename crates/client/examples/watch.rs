//! Says how the pools of a supervisor are, then what happens to them, until somebody ends it:
//!
//! ```sh
//! cargo run -p client --example watch                             # what client.toml names, or this machine's supervisor
//! cargo run -p client --example watch -- /run/etherpool/api.sock
//! ```

use std::error::Error;
use std::process::ExitCode;

use client::block::plain;
use client::control::api::{EventLine, Missed};
use client::{Address, Client, Named, SOCKET};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match watch().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("watch: {}", plain(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

async fn watch() -> Result<(), Box<dyn Error>> {
    let address = match std::env::args_os().nth(1) {
        Some(socket) => Address::Socket(socket.into()),
        None => Named::of_user()?.address()?.unwrap_or(Address::Socket(SOCKET.into())),
    };
    let client = Client::new(address);
    println!("the supervisor is of version {}", plain(&client.version().await?.supervisor.version));
    // Before the pools are asked for, so that nothing happens in between.
    let mut events = client.events().await?;
    for pool in client.pools().await? {
        println!(
            "pool {} is {}, with {} volumes",
            plain(&pool.name),
            pool.state.word(),
            pool.volumes.len()
        );
    }
    loop {
        match events.next().await? {
            EventLine::Happened { severity, text, .. } => {
                println!("{}: {}", severity.word(), plain(&text));
            }
            EventLine::Missed(Missed::Lost { count }) => println!("{count} events were missed"),
            // What another version tells.
            EventLine::Other(_) => {}
        }
    }
}
