"""A private OpenLDAP server with invented people, for the demo and the tests of the `hr_ldap` connector.

Starts the machine's own `slapd` program as a child process in a folder of the caller, on loopback ports of its own, with
StartTLS, ldaps:// and a self-made CA; no system service and no file outside the folder is touched. Two accounts read:
one may page through everything, one meets the size limit that most servers set. Needs the Debian packages `slapd`
and `ldap-utils`.

    python -m simulators.hr_ldap --people 200
"""

import argparse
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

BASE_DN = "dc=example,dc=org"
SYNC_DN = f"uid=svc-sync,ou=services,{BASE_DN}"
LIMITED_DN = f"uid=svc-limited,ou=services,{BASE_DN}"
ROOT_DN = f"cn=root,{BASE_DN}"
PASSWORD = "correct-horse-battery"
LOADED_AT = "20260105080000Z"
START_SECONDS = 120.0
_PATH = "/usr/sbin:/usr/local/sbin:/usr/local/libexec:/usr/libexec"
_SCHEMAS = ("core", "cosine", "inetorgperson", "nis")
_TITLES = ("Engineer", "Analyst", "Buyer", "Nurse")


class SlapdError(RuntimeError):
    """slapd is missing or does not start."""


def find_slapd() -> str | None:
    """Path of the program, also where Debian keeps servers off PATH."""
    return shutil.which("slapd") or shutil.which("slapd", path=_PATH)


def person(number: int) -> str:
    """One invented person as LDIF, the same for the same number on every machine."""
    return (
        f"dn: uid=u{number:05},ou=people,{BASE_DN}\nobjectClass: inetOrgPerson\nuid: u{number:05}\n"
        f"cn: User {number}\nsn: Name{number}\ngivenName: Given{number}\nmail: u{number:05}@example.org\n"
        f"employeeNumber: {1000 + number}\ndepartmentNumber: D{number % 7}\ntitle: {_TITLES[number % 4]}\n"
        f"telephoneNumber: +1 555 {number:04}\nmanager: uid=u{number // 10:05},ou=people,{BASE_DN}\n"
        + _operational(number)
    )


def group(number: int, members: int) -> str:
    """One group that holds the first `members` people."""
    listed = "".join(f"member: uid=u{n:05},ou=people,{BASE_DN}\n" for n in range(members))
    return f"dn: cn=team-{number},ou=groups,{BASE_DN}\nobjectClass: groupOfNames\ncn: team-{number}\n" + (
        listed + _operational(900_000 + number)
    )


def _operational(number: int) -> str:
    return (
        f"entryUUID: 96f21282-7959-1041-9773-{number:012x}\ncreateTimestamp: {LOADED_AT}\nmodifyTimestamp: {LOADED_AT}\n"
        f"entryCSN: {LOADED_AT[:-1]}.{number % 1_000_000:06}Z#000000#000#000000\n"
    )


def _ldif(people: int, password: str) -> Iterator[str]:
    yield f"dn: {BASE_DN}\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n"
    for unit in ("people", "groups", "services"):
        yield f"dn: ou={unit},{BASE_DN}\nobjectClass: organizationalUnit\nou: {unit}\n"
    for dn in (SYNC_DN, LIMITED_DN):
        uid = dn.split(",")[0].removeprefix("uid=")
        yield f"dn: {dn}\nobjectClass: account\nobjectClass: simpleSecurityObject\nuid: {uid}\nuserPassword: {password}\n"
    yield from map(person, range(people))
    yield from (group(n, min(people, 3 * n)) for n in range(1, 4) if people)


class Slapd:
    """One server over its life: `start`, `stop` and `start` again keep folder, ports and entries."""

    def __init__(
        self,
        folder: Path,
        *,
        people: int = 25,
        size_limit: int = 500,
        password: str = PASSWORD,
        demands_certificate: bool = False,
        follows_renames: bool = False,
    ) -> None:
        """`follows_renames`: DNs in `manager` and `member` follow the entry they name, a moment after it was renamed."""
        self.folder = folder
        self.password = password
        self.people = people
        self._size_limit = size_limit
        self._verify_client = "demand" if demands_certificate else "try"
        self._overlay = "overlay refint\nrefint_attributes manager member\n" if follows_renames else ""
        self._port, self._tls_port = _free_port(), _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._was_up = False

    @property
    def url(self) -> str:
        """By number: libldap checks `localhost` against the machine's own name."""
        return f"ldap://127.0.0.1:{self._port}"

    @property
    def tls_url(self) -> str:
        return f"ldaps://127.0.0.1:{self._tls_port}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def client_cert(self) -> tuple[str, str]:
        """Certificate and key that SASL EXTERNAL maps to the account of the sync."""
        return str(self.folder / "client.pem"), str(self.folder / "client.key")

    def __enter__(self) -> Self:
        self.prepare()
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def prepare(self) -> None:
        """Write certificates and settings and load the entries."""
        (self.folder / "db").mkdir(parents=True)
        self._certificates()
        (self.folder / "slapd.conf").write_text(self._settings())
        (self.folder / "people.ldif").write_text("\n".join(_ldif(self.people, self.password)))
        self._run("-T", "add", "-q", "-f", "slapd.conf", "-l", "people.ldif")

    def start(self) -> None:
        """Returns once this very server answers on both ports. Ports that somebody took before the first start change."""
        for _ in range(3):
            arguments = [_program(), "-f", "slapd.conf", "-h", f"{self.url} {self.tls_url}", "-d", "0"]
            self._process = subprocess.Popen(
                arguments, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            if self._comes_up(self._process):
                self._was_up = True
                return
            self.stop()
            if not self._was_up:
                self._port, self._tls_port = _free_port(), _free_port()
        raise SlapdError(f"slapd ends at once; see `slapd -d 1 -f {self.folder}/slapd.conf`")

    def freeze(self) -> None:
        """Connections are still taken by the system, and nobody answers; `stop` ends it."""
        if self._process:
            self._process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        """End the process at once, the way a crash would; mdb needs no farewell."""
        if self._process:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def apply(self, ldif: str) -> None:
        """Change entries as the administrator: LDIF with changetypes; operational attributes may be set (Relax Rules)."""
        command = ["ldapmodify", "-x", "-H", self.url, "-D", ROOT_DN, "-w", self.password, "-e", "relax"]
        done = subprocess.run(command, input=ldif, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SlapdError(f"ldapmodify failed: {done.stderr.strip()[-500:]}")

    def deny(self, dn: str) -> None:
        """Take from everybody the right to read this subtree; restarts the server."""
        rule = f'access to dn.subtree="{dn}" by * disclose\n'
        settings = self.folder / "slapd.conf"
        settings.write_text(settings.read_text().replace("access to * by", rule + "access to * by"))
        self.stop()
        self.start()

    def _run(self, *arguments: str) -> None:
        done = subprocess.run([_program(), *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SlapdError(f"slapd {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")

    def _comes_up(self, process: subprocess.Popen[bytes]) -> bool:
        """False where the process ends. It writes its id once it has both ports: until then others may answer there."""
        pid_file, until = self.folder / "slapd.pid", time.monotonic() + START_SECONDS
        while process.poll() is None:
            is_ours = pid_file.is_file() and pid_file.read_text().strip() == str(process.pid)
            if is_ours and all(map(_is_listening, (self._port, self._tls_port))):
                return True
            if time.monotonic() > until:
                self.stop()
                raise SlapdError(f"slapd does not answer; see `slapd -d 1 -f {self.folder}/slapd.conf`")
            time.sleep(0.02)
        return False

    def _certificates(self) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        server = authority.issue_cert("127.0.0.1", "::1")
        client = authority.issue_cert("svc-sync.example.org", common_name="svc-sync")
        for name, leaf in (("server", server), ("client", client)):
            leaf.private_key_pem.write_to_path(self.folder / f"{name}.key")
            leaf.cert_chain_pems[0].write_to_path(self.folder / f"{name}.pem")

    def _settings(self) -> str:
        includes = "\n".join(f"include /etc/ldap/schema/{name}.schema" for name in _SCHEMAS)
        return f"""{includes}
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload refint
pidfile {self.folder}/slapd.pid
TLSCACertificateFile {self.ca_file}
TLSCertificateFile {self.folder}/server.pem
TLSCertificateKeyFile {self.folder}/server.key
TLSVerifyClient {self._verify_client}
authz-regexp "cn=([^,]+),.*" "uid=$1,ou=services,{BASE_DN}"
sizelimit {self._size_limit}
database mdb
maxsize 268435456
suffix "{BASE_DN}"
rootdn "{ROOT_DN}"
rootpw {self.password}
directory {self.folder}/db
index objectClass,uid,member,modifyTimestamp,entryUUID eq
limits dn.exact="{SYNC_DN}" size.soft={self._size_limit} size.hard=1000 size.prtotal=unlimited
access to attrs=userPassword by self write by anonymous auth by * none
access to * by users read by * none
{self._overlay}"""


def _program() -> str:
    found = find_slapd()
    if found is None:
        raise SlapdError("slapd is not installed: apt-get install slapd ldap-utils (its service may stay disabled)")
    return found


def _is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def main() -> None:
    """Run until interrupted and say how to connect."""
    parser = argparse.ArgumentParser(description="a private OpenLDAP server with invented people")
    parser.add_argument("--people", type=int, default=200)
    count: int = parser.parse_args().people
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    with tempfile.TemporaryDirectory(prefix="hr-ldap-") as folder, Slapd(Path(folder), people=count) as server:
        sys.stdout.write(
            f"url: {server.url} (StartTLS) or {server.tls_url}\nca_file: {server.ca_file}\n"
            f"base_dn: {BASE_DN}\nbind_dn: {SYNC_DN}\npassword: {server.password}\n"
        )
        sys.stdout.flush()
        over.wait()


if __name__ == "__main__":
    main()
