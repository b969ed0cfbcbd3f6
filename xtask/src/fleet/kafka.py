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
            while consumer.position(part) < end:
                for record in consumer.poll(1000, max_records=1000).get(part, []):
                    out.write(record.value + b'\n')
