"""Mails: what Apprise's own plugin does, with a Message-ID of ours and the text that we have."""

from __future__ import annotations

import hashlib
import re
import smtplib
from dataclasses import replace
from email import message_from_string
from email.mime.text import MIMEText
from typing import Any

from apprise.common import NotifyFormat
from apprise.exception import AppriseException
from apprise.plugins.email.base import NotifyEmail, PGPMode
from apprise.plugins.email.smtp import AppriseSMTPController

_MESSAGE_ID = re.compile(r"^Message-ID:.*\n(?:[ \t].*\n)*", re.IGNORECASE | re.MULTILINE)


def message_id_of(digest_ids: tuple[str, ...], address: str, domain: str) -> str:
    """The same for the same digests and URL, in every attempt and every process. The URL, which
    holds secrets, cannot be found out from it."""
    hashed = hashlib.sha256("\n".join((*digest_ids, address)).encode()).hexdigest()
    return f"<{hashed[:40]}@{domain or 'alarmdigest.invalid'}>"


class Mail(NotifyEmail):  # type: ignore[misc]  # Apprise's types are left out
    """One mail. Apprise's plugin makes a Message-ID of its own for each attempt, and a text out of
    the HTML; so its ``send`` is done anew, with its own parts."""

    digest_ids: tuple[str, ...] = ()
    address: str = ""
    plain: str = ""
    unsubscribe: str = ""
    problem: str = ""

    def send(self, body: str, title: str = "", body_format: Any = None, **_: Any) -> bool:
        self.problem = ""
        if not self.targets:
            self.problem = "the URL names nobody whom a mail could go to"
            return False
        try:
            with AppriseSMTPController(
                host=self.smtp_host,
                port=self.port,
                secure_mode=self.secure_mode,
                user=self.user,
                password=self.password,
                verify_certificate=self.verify_certificate,
                socket_connect_timeout=self.socket_connect_timeout,
            ) as smtp:
                for message in self._messages(title, body, body_format):
                    if self.is_delivered(message.recipient):
                        continue
                    self._submit(smtp, message)
                    self.mark_delivered(message.recipient)
        except smtplib.SMTPRecipientsRefused as error:
            self.problem = "; ".join(_reply(*one) for one in error.recipients.values())
        except smtplib.SMTPResponseException as error:
            self.problem = _reply(error.smtp_code, error.smtp_error)
        except (OSError, smtplib.SMTPException, RuntimeError, AppriseException) as error:
            self.problem = f"{self.smtp_host}:{self.port}: {error or type(error).__name__}"
        return not self.problem

    def _submit(self, smtp: Any, message: Any) -> None:
        """Raises what says why it was not taken; the controller's own ``sendmail`` keeps that to
        itself."""
        refused = smtp._socket.sendmail(self.from_addr[1], message.to_addrs, message.body)
        if refused:
            raise smtplib.SMTPRecipientsRefused(refused)

    def _messages(self, title: str, body: str, body_format: Any) -> Any:
        headers = {"X-Application": self.app_id, "Auto-Submitted": "auto-generated"}
        headers |= {
            name: value
            for name, value in self.headers.items()
            if name.strip().lower() != "message-id"
        }
        if self.unsubscribe:
            headers["List-Unsubscribe"] = f"<{self.unsubscribe}>"
            if self.unsubscribe.lower().startswith("https://"):
                headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
        form = self.resolve_format(body_format)
        for message in NotifyEmail.prepare_emails(
            subject=title,
            body=body,
            notify_format=form,
            from_addr=self.from_addr,
            to=self.targets,
            cc=self.cc,
            bcc=self.bcc,
            reply_to=self.reply_to,
            smtp_host=self.smtp_host,
            headers=headers,
            names=self.names,
            pgp=self.pgp,
            pgp_mode=self.pgp_mode,
            inline=self.inline,
            tzinfo=self.tzinfo,
        ):
            text = message.body
            if form == NotifyFormat.HTML and self.pgp_mode == PGPMode.NONE and self.plain:
                text = _with_text(text, self.plain)
            domain = self.from_addr[1].rpartition("@")[2]
            own = message_id_of(self.digest_ids, self.address, domain)
            # Within the headers only: it stands before the first empty line.
            text = _MESSAGE_ID.sub(f"Message-ID: {own}\n", text, count=1)
            yield replace(message, body=text)


def _with_text(mail: str, plain: str) -> str:
    """The mail with this text beside its HTML."""
    parsed = message_from_string(mail)
    parts: Any = parsed.get_payload()
    if isinstance(parts, list) and parts and parts[0].get_content_type() == "text/plain":
        parts[0] = MIMEText(plain, "plain", "utf-8")
        return parsed.as_string()
    return mail


def _reply(code: int, text: bytes | str) -> str:
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"the mail server says {code} {' '.join(said.split())}"
