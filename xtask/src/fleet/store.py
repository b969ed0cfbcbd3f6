# Loads events into ClickHouse, with the table of deploy/fleet, and asks its questions. At the end it tells how
# many rows there are, and how many when those that are the same are one.
import os, sys, tempfile
from chdb import session
folder, events = sys.argv[1:]
def statements(name):
    text = open(os.path.join(folder, name)).read()
    return [it for it in text.split(';') if it.strip()]
with tempfile.TemporaryDirectory() as place:
    store = session.Session(place)
    # What came twice stays so until it is asked for.
    store.query('SYSTEM STOP MERGES')
    store.query('SET optimize_on_insert = 0')
    for statement in statements('schema.sql'):
        store.query(statement)
    store.query("INSERT INTO oomtrace.events (event) "
                f"SELECT json FROM file('{events}', 'JSONAsString', 'json String')")
    for statement in statements('queries.sql'):
        question = [line for line in statement.splitlines() if line.startswith('-- ')][-1][3:]
        rows = str(store.query(statement, 'TSV')).splitlines()
        print(f'{len(rows):4} rows: {question}')
    count = lambda what: str(store.query(f'SELECT count() FROM oomtrace.events {what}', 'TSV')).strip()
    print(f"{count('')} rows, {count('FINAL')} records")
