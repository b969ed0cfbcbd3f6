# Makes the topic, or writes all that is in it to a file, a line each, one partition after the other.
import sys
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
what, port = sys.argv[1:3]
address = '127.0.0.1:' + port
if what == 'make':
    KafkaAdminClient(bootstrap_servers=address).create_topics([NewTopic('oomtrace', 6, 1)])
else:
    consumer = KafkaConsumer(bootstrap_servers=address)
    with open(sys.argv[3], 'wb') as out:
        for part in sorted(consumer.partitions_for_topic('oomtrace')):
            part = TopicPartition('oomtrace', part)
            consumer.assign([part])
            consumer.seek_to_beginning(part)
            end = consumer.end_offsets([part])[part]
            read = 0
            while read < end:
                # All that was fetched: of a batch that is read in pieces this broker forgets the rest.
                for record in consumer.poll(1000, max_records=1 << 30).get(part, []):
                    if record.offset != read:
                        sys.exit(f'{part} has {end} messages: after {read} came {record.offset}')
                    out.write(record.value + b'\n')
                    read += 1
