//! Declares the topology, as often as it takes: what is there already is left as it is.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ErrorKind};

use super::super::topology::{Argument, ExchangeKind, Queue, Topology};
use super::connection::described;
use super::message::long;

/// What RabbitMQ says when something of that name is there with other arguments.
const PRECONDITION_FAILED: u16 = 406;

/// Declares everything on a channel of its own, as a refusal ends the channel it was asked on.
///
/// # Errors
/// A sentence for a person: which queue or exchange, what the server says, what to do.
pub(super) async fn declare(connection: &Connection, topology: &Topology) -> Result<(), String> {
    let channel = connection.create_channel().await.map_err(|error| described(&error))?;
    for exchange in topology.exchanges() {
        let kind = match exchange.kind {
            ExchangeKind::Direct => lapin::ExchangeKind::Direct,
            ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
        };
        // Durable: it outlives a restart of the server, as the messages do.
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let name = exchange.name.as_str();
        let declared = channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await;
        declared.map_err(|error| refusal("exchange", name, &error))?;
    }
    for queue in topology.queues() {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.name.as_str().into(), options, arguments(&queue)).await;
        declared.map_err(|error| refusal("queue", &queue.name, &error))?;
    }
    bind(&channel, topology).await?;
    let _ = channel.close(200, "OK".into()).await;
    Ok(())
}

async fn bind(channel: &Channel, topology: &Topology) -> Result<(), String> {
    for binding in topology.bindings() {
        let (queue, exchange) = (binding.queue.as_str(), binding.exchange.as_str());
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind(
            queue.into(),
            exchange.into(),
            binding.routing_key.into(),
            options,
            FieldTable::default(),
        );
        bound.await.map_err(|error| refusal("queue", queue, &error))?;
    }
    Ok(())
}

fn arguments(queue: &Queue) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in &queue.arguments {
        let value = match value {
            Argument::Text(word) => AMQPValue::LongString(long(word)),
            Argument::Number(n) => AMQPValue::LongLongInt(*n),
        };
        table.insert((*key).into(), value);
    }
    table
}

fn refusal(what: &str, name: &str, error: &lapin::Error) -> String {
    let said = described(error);
    match error.kind() {
        ErrorKind::ProtocolError(refused) if refused.get_id() == PRECONDITION_FAILED => format!(
            "broker.prefix: the {what} {name} exists with other arguments ({said}); delete it in RabbitMQ's management \
             UI once it is empty or its messages are moved, or set another broker.prefix"
        ),
        _ => format!("can't declare the {what} {name}: {said}"),
    }
}
