# Makes the stream, or writes all that is in it to a file, a line each.
import asyncio, sys, nats
async def main(what, port, to=None):
    client = await nats.connect('nats://127.0.0.1:' + port)
    stream = client.jetstream()
    if what == 'make':
        await stream.add_stream(name='OOM', subjects=['oomtrace'])
    else:
        left = (await stream.stream_info('OOM')).state.messages
        reader = await stream.pull_subscribe('oomtrace', stream='OOM')
        with open(to, 'wb') as out:
            while left:
                for message in await reader.fetch(min(left, 500), timeout=20):
                    out.write(message.data + b'\n')
                    await message.ack()
                    left -= 1
    await client.close()
asyncio.run(main(*sys.argv[1:]))
