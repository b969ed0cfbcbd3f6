//! Kafka, and what speaks its protocol. Records with the same key, those of a pod or of a node, go to
//! the same partition and stay in order there.

mod broker;
mod login;

use std::{
    collections::{BTreeMap, HashMap},
    io::Write as _,
    path::PathBuf,
};

use bytes::{Bytes, BytesMut};
use flate2::{Compression as Level, write::GzEncoder};
use kafka_protocol::{
    error::{ParseResponseErrorCode as _, ResponseError},
    indexmap::IndexMap,
    messages::{
        MetadataRequest, ProduceRequest, TopicName,
        metadata_request::MetadataRequestTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
    records::{
        Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, Record,
        RecordBatchEncoder, RecordEncodeOptions, TimestampType,
    },
};
use serde::{Deserialize, Serialize};

use self::{
    broker::{Broker, Error},
    login::Login,
};
use super::{Brief, Failure, Runtime, encoded, parse, patience, together};
use crate::{
    config::{Size, Time},
    delivery::Item,
    format::Format,
    net,
    tls::{Credentials, Secret},
};

/// The newest versions whose requests name topics by their names.
const METADATA: i16 = 8;
const PRODUCE: i16 = 9;
/// All replicas that are in sync.
const ALL: i16 = -1;

/// Where to send, and as whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Some of the cluster's brokers, `HOST:PORT`; they name the others.
    pub brokers: Vec<Address>,
    /// The topic, which must be there.
    pub topic: String,
    /// How records are written.
    #[serde(default)]
    pub format: Format,
    /// Whether batches are packed by gzip.
    #[serde(default)]
    pub compress: bool,
    /// The longest batch that the topic takes.
    #[serde(default = "max_message")]
    pub max_message: Size,
    /// How long to wait for an answer.
    #[serde(default = "patience")]
    pub timeout: Time,
    /// How to log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Mechanism>,
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// A file with the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Whether brokers are talked to by TLS.
    #[serde(default)]
    pub tls: bool,
    /// Certificates of those who may sign the brokers'; those of the system else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The client's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The name that brokers' certificates must have, where that is not the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// The brokers' own default (`message.max.bytes`), less what is around it.
const fn max_message() -> Size {
    Size(976 << 10)
}

/// How to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// The password as it is: for TLS.
    Plain,
    /// It is proven that the password is known.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// The same, with a longer hash.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

/// A broker's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: String,
    port: u16,
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // It may have a password in it: it is not repeated.
        let wrong = || "not an address such as HOST:9092".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.trim_matches(['[', ']']);
        if bare.is_empty() || bare.contains(['/', '@']) || (bare.contains(':') && bare == host) {
            return Err(wrong());
        }
        Ok(Self {
            host: bare.to_owned(),
            port: port.parse().map_err(|_| wrong())?,
        })
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&net::authority(&self.host, self.port))
    }
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.brokers.is_empty() {
            return Err("brokers names none".to_owned());
        }
        if self.topic.is_empty() {
            return Err("topic is empty".to_owned());
        }
        let login = [
            self.sasl.is_some(),
            self.username.is_some(),
            self.password_file.is_some(),
        ];
        if login.contains(&true) && login.contains(&false) {
            return Err("sasl, username and password_file belong together".to_owned());
        }
        together(("cert_file", &self.cert_file), ("key_file", &self.key_file))?;
        let tls = [&self.ca_file, &self.cert_file];
        if !self.tls && (tls.iter().any(|file| file.is_some()) || self.server_name.is_some()) {
            return Err("certificates without tls = true".to_owned());
        }
        if let Some(login) = self.login() {
            login.password.read().map_err(|error| error.to_string())?;
        }
        if let Some(credentials) = self.credentials() {
            credentials.tls().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn credentials(&self) -> Option<Credentials> {
        self.tls.then(|| {
            Credentials::of_files(
                &self.ca_file,
                &self.cert_file,
                &self.key_file,
                &self.server_name,
            )
        })
    }

    fn login(&self) -> Option<Login> {
        Some(Login {
            mechanism: self.sasl?,
            username: self.username.clone()?,
            password: Secret::File(self.password_file.clone()?),
        })
    }

    async fn connect(&self, to: &Address) -> Result<Broker, Failure> {
        let address = (to.host.as_str(), to.port);
        Broker::connect(address, self.credentials().as_ref(), self.login().as_ref())
            .await
            .map_err(|error| later(to, &error))
    }

    /// A record with its key, which decides on the partition.
    fn record(&self, item: &Item) -> Result<Record, Failure> {
        let brief: Brief<'_> = parse(item)?;
        let value = encoded(self.format, item)?;
        let header = |name, value: &str| {
            let value = Bytes::copy_from_slice(value.as_bytes());
            (StrBytes::from_static_str(name), Some(value))
        };
        let ns = brief.time_unix_ns.as_ref().and_then(|ns| ns.parse().ok());
        Ok(Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            timestamp_type: TimestampType::Creation,
            offset: 0,
            sequence: 0,
            timestamp: ns.map_or(-1, |ns: i64| ns / 1_000_000),
            key: Some(Bytes::copy_from_slice(brief.key().as_bytes())),
            value: Some(value.into()),
            headers: IndexMap::from([header("event_id", &brief.id()), header("kind", &brief.kind)]),
        })
    }

    /// The records of one partition, as the broker keeps them.
    fn batch(&self, mut records: Vec<Record>) -> Result<Bytes, Failure> {
        // Their offsets count from 0 for the broker to add to. The batch has no sequence (-1), and
        // the crate takes each record's from its offset.
        for (offset, record) in (0..).zip(&mut records) {
            record.offset = offset;
            record.sequence = i32::try_from(offset).unwrap_or(i32::MAX) - 1;
        }
        let options = RecordEncodeOptions {
            version: 2,
            compression: match self.compress {
                true => Compression::Gzip,
                false => Compression::None,
            },
        };
        let pack = |from: &mut BytesMut, to: &mut BytesMut, _| {
            let mut packed = GzEncoder::new(Vec::new(), Level::fast());
            packed.write_all(from)?;
            to.extend_from_slice(&packed.finish()?);
            Ok(())
        };
        let pack = self.compress.then_some(pack);
        let mut batch = BytesMut::new();
        RecordBatchEncoder::encode_with_custom_compression(&mut batch, &records, &options, pack)
            .map_err(|error| Failure::Refused(format!("it cannot be written: {error}")))?;
        if batch.len() as u64 > self.max_message.0 {
            let (length, most) = (batch.len(), self.max_message);
            let why = format!("its {length} bytes are more than max_message, {most}");
            return Err(Failure::Refused(why));
        }
        Ok(batch.freeze())
    }
}

fn later(address: &Address, error: &Error) -> Failure {
    Failure::later(format!("{address}: {error}"))
}

/// The partition of a key: the one that Kafka's own clients choose (murmur2).
fn partition(key: &[u8], partitions: usize) -> usize {
    const FACTOR: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ (key.len() as u32);
    let mut words = key.chunks_exact(4);
    let number = |bytes: &[u8]| {
        let bytes = bytes.iter().rev();
        bytes.fold(0, |all, byte| all << 8 | u32::from(*byte))
    };
    for word in &mut words {
        let mixed = number(word).wrapping_mul(FACTOR);
        let mixed = (mixed ^ mixed >> 24).wrapping_mul(FACTOR);
        hash = hash.wrapping_mul(FACTOR) ^ mixed;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash = (hash ^ number(rest)).wrapping_mul(FACTOR);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(FACTOR);
    hash ^= hash >> 15;
    (hash & 0x7fff_ffff) as usize % partitions
}

/// The topic, as the cluster tells of it.
struct Topic {
    /// The broker that leads each partition; `None` while there is none.
    leaders: Vec<Option<i32>>,
    addresses: HashMap<i32, Address>,
    /// Those that were needed.
    brokers: HashMap<i32, Broker>,
}

/// A cluster.
pub(super) struct Sink {
    settings: Settings,
    runtime: Runtime,
    /// Kept while there is more to send.
    topic: Option<Topic>,
}

impl Sink {
    pub(super) const fn new(settings: Settings) -> Self {
        Self {
            settings,
            runtime: Runtime::new(),
            topic: None,
        }
    }
}

/// Asks the first broker that answers where the topic is.
async fn find(settings: &Settings) -> Result<Topic, Failure> {
    let mut failure = Failure::later("brokers names none");
    for address in &settings.brokers {
        match settings.connect(address).await {
            Ok(mut broker) => match ask_for_topic(settings, &mut broker).await {
                Ok(found) => return found,
                Err(error) => failure = later(address, &error),
            },
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn ask_for_topic(
    settings: &Settings,
    broker: &mut Broker,
) -> Result<Result<Topic, Failure>, Error> {
    let name = TopicName(StrBytes::from_string(settings.topic.clone()));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![
            MetadataRequestTopic::default().with_name(Some(name)),
        ]))
        // A name that is misspelt is not to become a topic. Older versions cannot say so.
        .with_allow_auto_topic_creation(false);
    let version = broker.version::<MetadataRequest>(METADATA)?;
    let answer = broker.ask(&request, version).await?;
    let fails = |why: String| Ok(Err(Failure::later(why)));
    let name = &settings.topic;
    let Some(topic) = answer.topics.into_iter().next() else {
        return fails(format!("there is no topic {name}"));
    };
    match topic.error_code.err() {
        None => {}
        Some(ResponseError::UnknownTopicOrPartition) => {
            return fails(format!("there is no topic {name}"));
        }
        Some(error) => return fails(format!("topic {name}: {error}")),
    }
    let mut leaders = vec![None; topic.partitions.len()];
    for partition in topic.partitions {
        let index = usize::try_from(partition.partition_index);
        if let Some(leader) = index.ok().and_then(|index| leaders.get_mut(index)) {
            *leader = Some(partition.leader_id.0).filter(|leader| *leader >= 0);
        }
    }
    if leaders.is_empty() {
        return fails(format!("topic {name} has no partitions"));
    }
    let addresses = answer.brokers.into_iter().filter_map(|broker| {
        let address = Address {
            host: broker.host.to_string(),
            port: u16::try_from(broker.port).ok()?,
        };
        Some((broker.node_id.0, address))
    });
    Ok(Ok(Topic {
        leaders,
        addresses: addresses.collect(),
        brokers: HashMap::new(),
    }))
}

impl Topic {
    /// Hands all records over; each broker gets those of its partitions at once.
    async fn produce(&mut self, settings: &Settings, items: &[Item]) -> Result<(), Failure> {
        let mut of_partitions: BTreeMap<usize, Vec<Record>> = BTreeMap::new();
        for item in items {
            let record = settings.record(item)?;
            let key = record.key.as_deref().unwrap_or_default();
            let partition = partition(key, self.leaders.len());
            of_partitions.entry(partition).or_default().push(record);
        }
        let mut of_leaders: BTreeMap<i32, Vec<PartitionProduceData>> = BTreeMap::new();
        for (partition, records) in of_partitions {
            let Some(leader) = self.leaders.get(partition).copied().flatten() else {
                let topic = &settings.topic;
                let why = format!("partition {partition} of topic {topic} has no leader");
                return Err(Failure::later(why));
            };
            let data = PartitionProduceData::default()
                .with_index(i32::try_from(partition).unwrap_or(i32::MAX))
                .with_records(Some(settings.batch(records)?));
            of_leaders.entry(leader).or_default().push(data);
        }
        for (leader, partitions) in of_leaders {
            self.hand_over(settings, leader, partitions).await?;
        }
        Ok(())
    }

    async fn hand_over(
        &mut self,
        settings: &Settings,
        leader: i32,
        partitions: Vec<PartitionProduceData>,
    ) -> Result<(), Failure> {
        let address = self.addresses.get(&leader).ok_or_else(|| {
            Failure::later(format!(
                "broker {leader} leads, and nobody knows its address"
            ))
        })?;
        let broker = match self.brokers.entry(leader) {
            std::collections::hash_map::Entry::Occupied(broker) => broker.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(settings.connect(address).await?)
            }
        };
        let wanted = partitions.len();
        let name = TopicName(StrBytes::from_string(settings.topic.clone()));
        let request = ProduceRequest::default()
            .with_acks(ALL)
            .with_timeout_ms(i32::try_from(settings.timeout.0.as_millis()).unwrap_or(i32::MAX))
            .with_topic_data(vec![
                TopicProduceData::default()
                    .with_name(name)
                    .with_partition_data(partitions),
            ]);
        let version = broker.version::<ProduceRequest>(PRODUCE);
        let version = version.map_err(|error| later(address, &error))?;
        let answer = broker.ask(&request, version).await;
        let answer = answer.map_err(|error| later(address, &error))?;
        let answers = answer
            .responses
            .iter()
            .flat_map(|it| &it.partition_responses);
        let mut taken = 0;
        let mut refused = None;
        for answer in answers {
            let Some(error) = answer.error_code.err() else {
                taken += 1;
                continue;
            };
            let said = answer.error_message.as_deref().unwrap_or_default();
            let (partition, topic) = (answer.index, &settings.topic);
            let why = format!("{address}: partition {partition} of topic {topic}: {error} {said}");
            let why = why.trim_end().to_owned();
            match error {
                ResponseError::MessageTooLarge
                | ResponseError::RecordListTooLarge
                | ResponseError::InvalidTimestamp
                | ResponseError::InvalidRecord => refused = Some(why),
                _ => return Err(Failure::later(why)),
            }
        }
        match refused {
            Some(why) => Err(Failure::Refused(why)),
            None if taken < wanted => {
                let why = format!("{address}: its answer does not tell of every partition");
                Err(Failure::later(why))
            }
            None => Ok(()),
        }
    }
}

impl super::Sink for Sink {
    fn send(&mut self, items: &[Item]) -> Result<(), Failure> {
        let settings = &self.settings;
        let kept = self.topic.take();
        let work = async {
            let mut topic = match kept {
                Some(topic) => topic,
                None => find(settings).await?,
            };
            let sent = topic.produce(settings, items).await;
            Ok((topic, sent))
        };
        let slow = |within| Failure::later(format!("no answer {within}"));
        let (topic, sent) = self.runtime.run_within(settings.timeout, slow, work)?;
        // After a failure everything is looked up again: leaders move.
        if !matches!(sent, Err(Failure::Later { .. })) {
            self.topic = Some(topic);
        }
        sent
    }

    fn rest(&mut self) {
        // Nobody would notice that the brokers close them.
        self.topic = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kafka's own clients choose these (`UtilsTest.testMurmur2` of its sources has the hashes).
    #[test]
    fn partitions_are_those_of_other_clients() {
        let most = 0x8000_0000;
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            let expected = (i32::cast_unsigned(hash) & 0x7fff_ffff) as usize;
            assert_eq!(partition(key.as_bytes(), most), expected, "{key}");
        }
    }

    /// Addresses are a host and a port.
    #[test]
    fn addresses() {
        for (text, host) in [
            ("k:9092", "k"),
            ("[::1]:1", "::1"),
            ("10.0.0.1:2", "10.0.0.1"),
        ] {
            let address = Address::try_from(text.to_owned());
            assert_eq!(address.as_ref().map(|it| it.host.as_str()), Ok(host));
            assert_eq!(address.map(String::from), Ok(text.to_owned()));
        }
        for wrong in [
            "k",
            ":1",
            "k:x",
            "k:99999",
            "::1:1",
            "http://k:1",
            "u:p@k:1",
        ] {
            assert!(Address::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
