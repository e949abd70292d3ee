"""News reach somebody, once: against real HTTP and SMTP servers that refuse, fail, hang, come back, and see their sender die."""

import asyncio
import datetime
import http.server
import ipaddress
import json
import os
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from test_disk import needs_mounts

from ride_duration.ops import channels, delivery
from ride_duration.ops.channels import MAIL_FROM, MAIL_TO, SMTP, WEBHOOK, NotDelivered
from ride_duration.ops.delivery import deliver, waiting
from ride_duration.ops.findings import Finding
from ride_duration.ops.findings_file import findings_file
from ride_duration.ops.incidents import News, observe

SECRET = "T024BE7LD-XXXXXXXX"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    "Fractions of a second where a person would wait for seconds."
    monkeypatch.setattr(delivery, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(delivery, "PATIENCE", 3.0)
    post, send = channels.post_webhook, channels.send_mail
    monkeypatch.setattr(channels, "post_webhook", lambda *given: post(*given, patience=0.5))
    monkeypatch.setattr(channels, "send_mail", lambda *given: send(*given, patience=0.5))


def found(window: str = "2023-05", says: str = "rides take a fifth longer") -> Finding:
    return Finding("duration_shift", "demo", "duration", "act", "retrain", says, window, 2.3, "minutes", 61_000, 0.999)


def tell(environment: dict[str, str], window: str = "2023-05", says: str = "Retrain.") -> News:
    "A window with a finding, and what waits from then on."
    return observe("month", "demo", window, [found(window)], says, channels=channels.channels(environment)).news


# --- a chat ----------------------------------------------------------------------------------------------------------


class Chat(http.server.ThreadingHTTPServer):
    "A webhook that answers by a plan, and then well."

    def __init__(self, *plan: object):  # a status, a status with Retry-After, `hang`, `lose` (takes it, and never answers), or a function
        self.plan, self.heard, self.asked, self.over = list(plan), [], 0, threading.Event()
        super().__init__(("127.0.0.1", 0), _Listener)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        return {WEBHOOK: f"http://127.0.0.1:{self.server_port}/services/{SECRET}"}

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


class _Listener(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        step = self.server.plan.pop(0) if self.server.plan else 200
        if callable(step):
            step = step()
        if step in (200, "lose"):
            self.server.heard.append((self.headers["Idempotency-Key"], content))
        if step in ("hang", "lose"):
            self.server.over.wait(5)
            return
        status, *pause = step if isinstance(step, tuple) else (step,)
        self.send_response(status)
        if pause:
            self.send_header("Retry-After", str(pause[0]))
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(b"invalid_token\x1b[31m" if status >= 300 else b"ok")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("plan", [[], [500], [503, "hang", 502], [(429, 0)], [408]], ids=str)
def test_what_passes_is_tried_again_and_arrives_once(plan):
    with Chat(*plan) as chat:
        news = tell(chat.environment)
        assert deliver(chat.environment).waiting == () and deliver(chat.environment).arrived == 0
        assert [name for name, _ in chat.heard] == [news.id] and chat.asked == len(plan) + 1
        [(_, content)] = chat.heard
        assert "retrain" in content["text"] and "fifth longer" in json.dumps(content["blocks"])
        assert ("before" in json.dumps(content)) == ("hang" in plan), "only where an answer was lost may it be there already"


@pytest.mark.parametrize(("plan", "says", "tries"), [([500] * 9, "answered 500", 4), (["hang"] * 9, "no answer in time", 4), ([404], r"answered 404 \(invalid_token \[31m\)", 1),
                                                     ([302], "answered 302", 1), ([(429, 60)], "answered 429", 1)])  # fmt: skip
def test_a_dead_chat_keeps_the_message_which_arrives_later_once(plan, says, tries):
    with Chat(*plan) as chat:
        news = tell(chat.environment)
        left = deliver(chat.environment)
        assert left.arrived == 0 and chat.asked == tries
        assert [(one.message, one.target) for one in left.waiting] == [(news.id, "webhook")]
        assert re.search(says, left.waiting[0].why) and SECRET not in str(left)
        chat.plan.clear()
        assert [deliver(chat.environment).arrived for _ in range(3)] == [1, 0, 0]
        assert [name for name, _ in chat.heard] == [news.id]


def test_nobody_there_and_then_somebody():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = {WEBHOOK: f"http://127.0.0.1:{closed.getsockname()[1]}/{SECRET}"}
    first, second = tell(nowhere), tell(nowhere, "2023-06")
    assert second is None, "the same finding is told once"
    assert "connection refused" in deliver(nowhere).waiting[0].why
    with Chat() as chat:
        assert deliver(chat.environment).arrived == 1
        assert [name for name, _ in chat.heard] == [first.id]


def test_messages_keep_their_order_and_one_that_is_refused_for_good_stands_in_nobodys_way():
    with Chat(500, 500, 500, 500) as chat:
        news = [tell(chat.environment), observe("month", "demo", "2023-06", [], channels=["webhook"]).news, tell(chat.environment, "2023-07")]
        assert deliver(chat.environment).arrived == 0 and chat.asked == 4, "the later ones were not tried"
        assert deliver(chat.environment).arrived == 3
        assert [name for name, _ in chat.heard] == [one.id for one in news]
        assert "Over" in json.dumps(chat.heard[1][1])
    with Chat(400) as chat:
        over = [observe("month", "demo", month, [], channels=["webhook"]).news for month in ("2023-08", "2023-09")]
        more = [over[1], tell(chat.environment, "2023-10")]
        left = deliver(chat.environment)
        assert [one.message for one in left.waiting] == [more[0].id] and [name for name, _ in chat.heard] == [more[1].id]


def test_where_the_answer_was_lost_it_comes_again_under_the_same_id_and_says_so():
    with Chat(*["lose"] * 4) as chat:
        news = tell(chat.environment)
        assert deliver(chat.environment).arrived == 0
        assert deliver(chat.environment).arrived == 1
        assert {name for name, _ in chat.heard} == {news.id}
        assert ["before" in json.dumps(content) for _, content in chat.heard] == [False, True, True, True, True]


PROGRAM = "from ride_duration.ops.delivery import deliver; print(deliver().arrived)"


def in_a_process(environment: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", PROGRAM], env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_sender_that_dies_before_it_could_note_it(tmp_path):
    with Chat() as chat:
        news = tell(chat.environment)
        process = []

        def kill() -> str:
            process[0].kill()
            process[0].wait()
            return "lose"

        chat.plan.append(kill)
        process.append(in_a_process(chat.environment))
        process[0].communicate()
        assert process[0].returncode == -signal.SIGKILL and waiting(chat.environment)[0].message == news.id
        assert deliver(chat.environment).arrived == 1
        assert [(name, "before" in json.dumps(content)) for name, content in chat.heard] == [(news.id, False), (news.id, True)]


def test_two_senders_at_once_bring_it_once():
    def slowly() -> int:
        time.sleep(0.3)
        return 200

    with Chat(slowly) as chat:
        tell(chat.environment)
        both = [in_a_process(chat.environment) for _ in range(2)]
        assert sorted(one.communicate()[0].strip() for one in both) == ["0", "1"] and len(chat.heard) == 1


def test_no_chat_asked_for_no_message_kept():
    news = tell({})
    with Chat() as chat:
        assert news is not None and deliver(chat.environment).arrived == 0, "who sets up a chat is not flooded with the past"


def test_nothing_secret_is_written_or_said(tmp_path, home, capsys, caplog):
    environment = {WEBHOOK: f"http://127.0.0.1:9/{SECRET}", SMTP: f"smtp://ada:{SECRET}@127.0.0.1:9", MAIL_TO: f"{SECRET}@example.org"}
    tell(environment)
    left = deliver(environment)
    assert len(left.waiting) == 2
    written = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert SECRET.encode() not in written and b"retrain" in written
    assert SECRET not in repr(left) + repr(channels.mail_server(environment)) + caplog.text + "".join(capsys.readouterr())


# --- mail ------------------------------------------------------------------------------------------------------------


class Box:
    "A mail server's inbox, which answers by a plan, and then well."

    def __init__(self, *plan: str):
        self.plan, self.letters, self.asked = list(plan), [], 0

    async def handle_RCPT(self, server, session, envelope, address, options):
        envelope.rcpt_tos.append(address)
        return "550 5.1.1 no such person " + address if "nobody" in address else "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.asked += 1
        step = self.plan.pop(0) if self.plan else "250 taken"
        if step == "hang":
            await asyncio.sleep(3)
            return "451 too late"
        if step.startswith("250"):
            self.letters.append((envelope.rcpt_tos, envelope.content.decode(), bool(session.ssl), session.auth_data))
        return step

    async def handle_QUIT(self, server, session, envelope):
        return "554 not like this"  # it has taken the mail all the same


@pytest.fixture
def mailing(tmp_path: Path) -> Iterator[Callable]:
    running = []

    def start(*plan: str, **options) -> tuple[Box, int]:
        box = Box(*plan)
        controller = options.pop("kind", Controller)(box, hostname="127.0.0.1", port=free_port(), **options)
        controller.start()
        running.append(controller)
        return box, controller.port

    yield start
    for controller in running:
        controller.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def mail_to(port: int, people: str = "ada@example.org", login: str = "", more: str = "") -> dict[str, str]:
    return {SMTP: f"smtp://{login}127.0.0.1:{port}{more}", MAIL_TO: people}


@pytest.mark.parametrize("plan", [[], ["451 later"], ["hang"], ["421 going down", "452 full"]], ids=str)
def test_a_mail_arrives_once(mailing, plan):
    box, port = mailing(*plan)
    environment = mail_to(port) | {MAIL_FROM: "bot@example.org"}
    news = tell(environment)
    assert [deliver(environment).arrived for _ in range(2)] == [1, 0]
    [(people, letter, _, _)] = box.letters
    assert people == ["ada@example.org"] and f"Message-ID: <{news.id}@" in letter and "Subject: [ride-duration] demo 2023-05: retrain" in letter
    assert "From: bot@example.org" in letter and "docs/runbook.md#duration_shift" in letter and box.asked == len(plan) + 1


def test_a_refused_mail_waits_for_that_person_alone(mailing):
    box, port = mailing()
    news = tell(mail_to(port))
    left = deliver(mail_to(port, "ada@example.org, nobody@example.org"))
    assert left.arrived == 1 and [one.message for one in left.waiting] == [news.id]
    assert "answered 550" in left.waiting[0].why and "nobody@" not in left.waiting[0].why
    assert deliver(mail_to(port, "ada@example.org, bob@example.org")).arrived == 1, "the mistyped address was put right"
    assert [people for people, *_ in box.letters] == [["ada@example.org"], ["bob@example.org"]]


def test_a_mail_refused_for_good_is_not_tried_again_at_once(mailing):
    box, port = mailing("554 spam")
    tell(mail_to(port))
    assert "554 (spam)" in deliver(mail_to(port)).waiting[0].why and box.asked == 1
    assert deliver(mail_to(port)).arrived == 1


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    "Of 127.0.0.1, signed by itself: certificate and key."
    x509 = pytest.importorskip("cryptography.x509", reason="no cryptography: pip install cryptography to test mail over TLS")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder, key, now = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    signed = builder.sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


def speaking_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def only_ada(server, session, envelope, mechanism, data) -> AuthResult:
    good = mechanism in ("LOGIN", "PLAIN") and (data.login, data.password) == (b"ada", SECRET.encode())
    return AuthResult(success=good, handled=False)


def test_starttls_and_login(mailing, certificate, monkeypatch):
    box, port = mailing(tls_context=speaking_tls(certificate), require_starttls=True, authenticator=only_ada, auth_required=True)
    environment = mail_to(port, login=f"ada:{SECRET}@", more="?tls=on")
    tell(environment)
    why = deliver(environment).waiting[0].why
    assert "certificate" in why, "a server nobody vouches for gets no password"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    wrong = mail_to(port, login=f"ada:{SECRET}x@", more="?tls=on")
    assert "answered 535" in deliver(wrong).waiting[0].why and SECRET not in str(deliver(wrong))
    assert deliver(environment).arrived == 1
    [(_, _, encrypted, _)] = box.letters
    assert encrypted


def test_tls_from_the_first_byte(mailing, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    box, port = mailing(ssl_context=speaking_tls(certificate))
    environment = {SMTP: f"smtps://127.0.0.1:{port}", MAIL_TO: "ada@example.org"}
    tell(environment)
    assert deliver(environment).arrived == 1 and len(box.letters) == 1


def test_no_password_in_the_open_unless_it_was_asked_for(mailing):
    _, port = mailing()
    with pytest.raises(NotDelivered, match="offers no STARTTLS") as refused:
        channels.send_mail(channels.mail_server(mail_to(port, login="ada:x@", more="?tls=on")), tell({}), "ada@example.org")
    assert refused.value.lasting


# --- a full disk -----------------------------------------------------------------------------------------------------

ON_A_FULL_DISK = """
mount -t tmpfs -o size=8m none "$disk"
"$python" -c "
import sys
sys.path[:0] = ['$tests']
from test_delivery import *
observe('month', 'demo', '2023-04', [])
"
cat /dev/zero > "$disk/filler" 2> /dev/null || true
"$python" -c "
import sys
sys.path[:0] = ['$tests']
from test_delivery import *
from ride_duration.errors import DiskFull
from ride_duration.ops.incidents import told
with Chat(500, 500, 500, 500) as chat:
    delivery.FIRST_PAUSE = 0.01
    news = tell(chat.environment)
    assert deliver(chat.environment).arrived == 0, 'kept, although the disk is full'
    assert deliver(chat.environment).arrived == 1 and deliver(chat.environment).arrived == 0
    print(len(told('demo')), len(chat.heard), chat.heard[0][0] == news.id)
    with open('$disk/rest', 'wb', buffering=0) as rest:
        try:
            while rest.write(b'x' * 4096): pass
        except OSError as error: print(error.strerror)
    try: observe('month', 'demo', '2023-06', [found('2023-06', 'x' * 500_000)])
    except DiskFull as error: print(str(error)[:13])
    os.truncate('$disk/filler', 0)
    print(tell(chat.environment, '2023-07'), deliver(chat.environment).arrived)
"
"""


@needs_mounts
def test_a_full_disk_keeps_the_finding_and_it_arrives_once(tmp_path):
    (tmp_path / "disk").mkdir()
    settings = f'python="{sys.executable}" disk="{tmp_path}/disk" tests="{Path(__file__).parent}"\n'
    environment = {**os.environ, "RIDE_DURATION_HOME": str(tmp_path / "disk" / "home")}
    done = subprocess.run(["unshare", "-rm", "sh", "-c", "set -e\n" + settings + ON_A_FULL_DISK], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["1 1 True", "No space left on device", "no space left", "None 0"], done.stdout + done.stderr


def test_the_outbox_is_only_added_to():
    tell({WEBHOOK: "http://127.0.0.1:9/x"})
    deliver({WEBHOOK: "http://127.0.0.1:9/x"})
    with sqlite3.connect(findings_file()) as outbox:
        for statement in ("UPDATE attempt SET outcome = 'arrived'", "DELETE FROM attempt"):
            with pytest.raises(sqlite3.IntegrityError, match="what was tried stays"):
                outbox.execute(statement)
    outbox.close()
