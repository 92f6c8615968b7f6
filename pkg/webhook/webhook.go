// Package webhook reads what GitHub, Gitea (and Forgejo) and GitLab send when a repository changes: who sent it,
// whether the source's secret vouches for it, and what it is about.
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// MaxBody is the largest message that is read, in bytes.
const MaxBody = 4 << 20

// Message is a webhook whose sender knew the secret.
type Message struct {
	Vendor  string   // "github", "gitea" or "gitlab"
	Names   []string // what a repeated delivery has again, each
	Ignored string   // why nothing is to be done; "" for a push
	Ref     string   // that moved, in full: "refs/heads/main"
	Default string   // the repository's default branch, "" where the message does not tell
	Commit  string
}

// window is how far the clock of a sender of signed times may be off
// (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
const window = 5 * time.Minute

// ErrRefused says no more than that: whoever guesses learns nothing.
var ErrRefused = errs.New(errs.Unauthenticated, "kiln.webhook.refused", "this webhook is not taken")

// Read verifies a message and reads it. ErrRefused where the secret does not vouch for it; errs.Invalid
// kiln.webhook.body for a signed body that cannot be read.
func Read(h http.Header, body []byte, secret string, now time.Time) (Message, error) {
	for _, v := range vendors {
		if !v.sent(h) {
			continue
		}
		if secret == "" || !v.verify(h, body, secret, now) {
			return Message{}, ErrRefused
		}
		m := Message{Vendor: v.name, Names: v.names(h, body)}
		err := v.read(h.Get(v.event), body, &m)
		return m, err
	}
	return Message{}, ErrRefused
}

// vendor is one sender's habits.
type vendor struct {
	name     string
	event    string   // header
	delivery []string // headers, the surest first
	once     bool     // bodies tell the time of the push: no two are equal
	verify   func(h http.Header, body []byte, secret string, now time.Time) bool
	pushes   []string // values of the event that are pushes
}

// vendors in the order in which they are tried: Gitea sends GitHub's headers beside its own.
var vendors = []vendor{
	{
		// https://docs.gitea.com/usage/webhooks: HMAC-SHA256 of the body in hex.
		name: "gitea", event: "X-Gitea-Event", delivery: []string{"X-Gitea-Delivery"}, pushes: []string{"push"}, once: true,
		verify: func(h http.Header, body []byte, secret string, _ time.Time) bool {
			return sameHex(h.Get("X-Gitea-Signature"), body, secret)
		},
	},
	{
		// https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries: "sha256=" and the same.
		name: "github", event: "X-GitHub-Event", delivery: []string{"X-GitHub-Delivery"}, pushes: []string{"push"}, once: true,
		verify: func(h http.Header, body []byte, secret string, _ time.Time) bool {
			sum, ok := strings.CutPrefix(h.Get("X-Hub-Signature-256"), "sha256=")
			return ok && sameHex(sum, body, secret)
		},
	},
	{
		// https://docs.gitlab.com/user/project/integrations/webhooks/: the secret itself, or a signature.
		name: "gitlab", event: "X-Gitlab-Event", delivery: []string{"Webhook-Id", "Idempotency-Key", "X-Gitlab-Event-UUID"},
		pushes: []string{"Push Hook", "Tag Push Hook"}, verify: gitlab,
	},
}

func (v vendor) sent(h http.Header) bool { return h.Get(v.event) != "" }

// names are the sender's own for the delivery, and the body's digest: the signature covers the body, but not the
// header that a replay could change.
func (v vendor) names(h http.Header, body []byte) []string {
	var out []string
	for _, header := range v.delivery {
		if value := h.Get(header); value != "" {
			out = append(out, v.name+" "+value)
			break
		}
	}
	if v.once || len(out) == 0 {
		sum := sha256.Sum256(body)
		out = append(out, v.name+" body "+hex.EncodeToString(sum[:]))
	}
	return out
}

func sum(key, text []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(text)
	return mac.Sum(nil)
}

func sameHex(given string, body []byte, secret string) bool {
	have, err := hex.DecodeString(given)
	return err == nil && hmac.Equal(have, sum([]byte(secret), body))
}

// gitlab takes the signature where there is one: the token beside it proves less.
func gitlab(h http.Header, body []byte, secret string, now time.Time) bool {
	signatures := h.Get("Webhook-Signature")
	if signatures == "" {
		given, want := sha256.Sum256([]byte(h.Get("X-Gitlab-Token"))), sha256.Sum256([]byte(secret))
		return subtle.ConstantTimeCompare(given[:], want[:]) == 1
	}
	sent, err := strconv.ParseInt(h.Get("Webhook-Timestamp"), 10, 64)
	if err != nil || math.Abs(now.Sub(time.Unix(sent, 0)).Seconds()) > window.Seconds() {
		return false
	}
	key := []byte(secret)
	if text, ok := strings.CutPrefix(secret, "whsec_"); ok {
		if key, err = base64.StdEncoding.DecodeString(text); err != nil {
			return false
		}
	}
	want := sum(key, []byte(h.Get("Webhook-Id")+"."+h.Get("Webhook-Timestamp")+"."+string(body)))
	for one := range strings.FieldsSeq(signatures) {
		text, ok := strings.CutPrefix(one, "v1,")
		have, err := base64.StdEncoding.DecodeString(text)
		if ok && err == nil && hmac.Equal(have, want) {
			return true
		}
	}
	return false
}

// pushBody is what the push messages of all three share.
type pushBody struct {
	Ref        string `json:"ref"`
	After      string `json:"after"`
	Deleted    bool   `json:"deleted"`
	Repository struct {
		DefaultBranch string `json:"default_branch"`
	} `json:"repository"`
	Project struct {
		DefaultBranch string `json:"default_branch"`
	} `json:"project"`
}

func (v vendor) read(event string, body []byte, m *Message) error {
	push := false
	for _, p := range v.pushes {
		push = push || p == event
	}
	if !push {
		m.Ignored = "events of the kind " + strconv.Quote(event[:min(len(event), 60)]) + " change no recipe"
		return nil
	}
	var b pushBody
	if err := json.Unmarshal(body, &b); err != nil {
		return errs.New(errs.Invalid, "kiln.webhook.body", "the body is not the JSON of a push: set the webhook's content type to application/json")
	}
	m.Ref, m.Commit, m.Default = b.Ref, b.After, b.Repository.DefaultBranch
	if m.Default == "" {
		m.Default = b.Project.DefaultBranch
	}
	if b.Deleted || b.After != "" && strings.Trim(b.After, "0") == "" {
		m.Ignored = "the push removed a branch or tag"
	}
	return nil
}

// Moves tells whether the message is about what a source follows: its ref, or the default branch where that is "".
func (m Message) Moves(ref string) bool {
	if ref == "" || ref == "HEAD" {
		return m.Default == "" || m.Ref == "refs/heads/"+m.Default
	}
	return m.Ref == ref || m.Ref == "refs/heads/"+ref || m.Ref == "refs/tags/"+ref
}
