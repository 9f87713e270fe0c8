# mypy: disable-error-code="import-untyped,import-not-found,untyped-decorator"
"""A token server other than Keycloak: django-oauth-toolkit with a protected archive (`python second_server.py FOLDER`).

It prints its port when ready. Differences to Keycloak: 400 for a wrong password, 403 for an expired token, no logout,
another error for a used refresh token.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django
from django.conf import settings

LIFETIME_S = 3
BODY = b"0123456789abcdef" * 4096


def main(folder: Path) -> None:
    settings.configure(
        SECRET_KEY="for these tests alone",
        ALLOWED_HOSTS=["127.0.0.1"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": folder / "second.sqlite3",
                "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
            }
        },
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.ModelBackend"],
        OAUTH2_PROVIDER={
            "ACCESS_TOKEN_EXPIRE_SECONDS": LIFETIME_S,
            "ROTATE_REFRESH_TOKEN": True,
            "COMPLIANT_BCP_RFC9700_PASSWORD_GRANT": False,
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    django.setup()
    from django.core.management import call_command  # noqa: PLC0415 - needs a configured Django

    call_command("migrate", verbosity=0)
    _fill()
    settings.ROOT_URLCONF = _urls()
    _serve()


def _fill() -> None:
    from django.contrib.auth.models import User  # noqa: PLC0415
    from oauth2_provider.models import get_application_model  # noqa: PLC0415

    User.objects.create_user("dora", password="pÄss wörd+&=%€")
    get_application_model().objects.create(
        client_id="public", client_type="public", authorization_grant_type="password", name="public"
    )


def _serve() -> None:
    from django.core.wsgi import get_wsgi_application  # noqa: PLC0415

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Log nothing: the log would contain every token."""

    server = make_server("127.0.0.1", 0, get_wsgi_application(), server_class=Server, handler_class=Quiet)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


def _urls() -> tuple[Any, ...]:
    from django.http import HttpResponse, JsonResponse  # noqa: PLC0415
    from django.urls import path  # noqa: PLC0415
    from django.views.decorators.csrf import csrf_exempt  # noqa: PLC0415
    from oauth2_provider.decorators import protected_resource  # noqa: PLC0415
    from oauth2_provider.views import TokenView  # noqa: PLC0415

    answered: Counter[str] = Counter()
    answer = TokenView.as_view()

    @csrf_exempt
    def token(request: Any) -> HttpResponse:
        response = answer(request)
        answered[f"{request.POST.get('grant_type')} {response.status_code}"] += 1
        return response

    @protected_resource()
    def product(request: Any, name: str) -> HttpResponse:
        return HttpResponse(BODY, content_type="application/octet-stream")

    def counts(request: Any) -> JsonResponse:
        return JsonResponse(answered)

    return path("o/token", token), path("files/<name>", product), path("counts", counts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
