package webhook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/webhook"
)

var (
	now    = time.Date(2026, 3, 5, 12, 0, 0, 0, time.UTC)
	secret = "whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
	// What the push messages of all vendors share (their API documents).
	push = `{"ref":"refs/heads/main","before":"95790bf8","after":"da1560886d4f094c3e6c9ef40349f7d38b5d27d7","repository":{"default_branch":"main"},"project":{"default_branch":"main"}}`
)

func mac(key, text string) []byte {
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(text))
	return h.Sum(nil)
}

func headers(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i+1 < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}

func standard(body string, at time.Time) http.Header {
	stamp := strconv.FormatInt(at.Unix(), 10)
	sig := base64.StdEncoding.EncodeToString(mac("0123456789abcdef0123456789abcdef", "msg_1."+stamp+"."+body))
	return headers("X-Gitlab-Event", "Push Hook", "Webhook-Id", "msg_1", "Idempotency-Key", "other", "Webhook-Timestamp", stamp, "Webhook-Signature", "v1,AAAA v1,"+sig)
}

func github(body string) http.Header {
	return headers("X-GitHub-Event", "push", "X-GitHub-Delivery", "72d3162e", "X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac(secret, body)))
}

func gitea(body string) http.Header {
	return headers("X-Gitea-Event", "push", "X-Gitea-Delivery", "f6266f16", "X-Gitea-Signature", hex.EncodeToString(mac(secret, body)),
		"X-GitHub-Event", "push", "X-GitHub-Delivery", "f6266f16", "X-Gogs-Event", "push")
}

func TestVendors(t *testing.T) {
	for name, h := range map[string]http.Header{
		"github": github(push), "gitea": gitea(push), "gitlab": standard(push, now.Add(-time.Minute)),
		"gitlab token": headers("X-Gitlab-Event", "Push Hook", "X-Gitlab-Token", secret, "X-Gitlab-Event-UUID", "13792a34"),
	} {
		m, err := webhook.Read(h, []byte(push), secret, now)
		if err != nil || m.Ignored != "" || m.Vendor != strings.Fields(name)[0] || m.Ref != "refs/heads/main" || m.Default != "main" || len(m.Names) == 0 {
			t.Errorf("%s: %+v %v", name, m, err)
		}
		if !m.Moves("") || !m.Moves("main") || !m.Moves("refs/heads/main") || m.Moves("stable") {
			t.Errorf("%s: what it moves", name)
		}
		// Another secret and another body are refused, and nothing tells which it was.
		if _, err := webhook.Read(h, []byte(push), "another secret here", now); !errors.Is(err, webhook.ErrRefused) {
			t.Errorf("%s with another secret: %v", name, err)
		}
		if _, err := webhook.Read(h, []byte(push+" "), secret, now); name != "gitlab token" && !errors.Is(err, webhook.ErrRefused) {
			t.Errorf("%s with another body: %v", name, err)
		}
		if _, err := webhook.Read(h, []byte(push), "", now); !errors.Is(err, webhook.ErrRefused) {
			t.Errorf("%s for a source without a secret: %v", name, err)
		}
	}
}

func TestWhatIsRefused(t *testing.T) {
	broken := github(push)
	broken.Set("X-Hub-Signature-256", "sha256=zz")
	old := github(push)
	old.Del("X-Hub-Signature-256")
	old.Set("X-Hub-Signature", "sha1=00") // GitHub's older one is not enough
	both := standard(push, now)           // a wrong signature is not mended by the token beside it
	both.Set("Webhook-Signature", "v1,AAAA")
	both.Set("X-Gitlab-Token", secret)
	for name, h := range map[string]http.Header{
		"no headers": {}, "no hex": broken, "sha1": old, "both": both, "old time": standard(push, now.Add(-6*time.Minute)), "future": standard(push, now.Add(6*time.Minute)),
		"empty token": headers("X-Gitlab-Event", "Push Hook"),
	} {
		if m, err := webhook.Read(h, []byte(push), secret, now); !errors.Is(err, webhook.ErrRefused) {
			t.Errorf("%s: %+v %v", name, m, err)
		}
	}
}

func TestWhatIsIgnored(t *testing.T) {
	for name, body := range map[string]string{
		"removed":  `{"ref":"refs/heads/main","after":"0000000000000000000000000000000000000000","deleted":true}`,
		"removed2": `{"ref":"refs/heads/main","after":"0000000000000000000000000000000000000000"}`,
	} {
		if m, err := webhook.Read(github(body), []byte(body), secret, now); err != nil || m.Ignored == "" {
			t.Errorf("%s: %+v %v", name, m, err)
		}
	}
	ping := github(`{"zen":"x"}`)
	ping.Set("X-GitHub-Event", "ping")
	if m, err := webhook.Read(ping, []byte(`{"zen":"x"}`), secret, now); err != nil || !strings.Contains(m.Ignored, "ping") {
		t.Errorf("ping: %+v %v", m, err)
	}
	if _, err := webhook.Read(github("payload=%7B"), []byte("payload=%7B"), secret, now); err == nil || errors.Is(err, webhook.ErrRefused) {
		t.Errorf("a signed form: %v", err)
	}
}

// A replay that changes the header, which nothing signs, still has the body's name.
func TestNamesOfADelivery(t *testing.T) {
	names := func(h http.Header) []string {
		m, err := webhook.Read(h, []byte(push), secret, now)
		if err != nil {
			t.Fatal(err)
		}
		return m.Names
	}
	first, again := github(push), github(push)
	again.Set("X-GitHub-Delivery", "another")
	if a, b := names(first), names(again); len(a) != 2 || a[0] == b[0] || a[1] != b[1] {
		t.Errorf("%v %v", a, b)
	}
	if got := names(standard(push, now)); len(got) != 1 || got[0] != "gitlab msg_1" {
		t.Errorf("%v", got)
	}
}
