package keystone

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Exchanger gets a token for an application credential; *openstack.Cloud does. errs.Unauthenticated for a bad one.
type Exchanger interface {
	CredentialToken(ctx context.Context, id, secret string) (token string, expires time.Time, err error)
}

// Logins turns application credentials into tokens and keeps those for some minutes: a git program logs in with each
// of its requests. It is safe for many goroutines.
type Logins struct {
	ask    Exchanger
	cfg    Config
	flight singleflight.Group

	mu   sync.Mutex
	kept map[[sha256.Size]byte]login
}

// login is an answer of Keystone's, under the digest of the credential: no secret is kept.
type login struct {
	token string
	err   error // Unauthenticated, or nil
	until time.Time
}

// NewLogins makes Logins. Of the configuration it takes Keep, KeepBad, Entries, Timeout and Clock.
func NewLogins(ask Exchanger, cfg Config) *Logins {
	cfg.complete()
	return &Logins{ask: ask, cfg: cfg, kept: map[[sha256.Size]byte]login{}}
}

// Login gives a token for the credential. errs.Unauthenticated kiln.identity.bad_credential for one that Keystone does
// not take, which is believed for KeepBad; its own errors where Keystone cannot be asked.
func (l *Logins) Login(ctx context.Context, id, secret string) (string, error) {
	key := sha256.Sum256([]byte(id + "\x00" + secret))
	if e, ok := l.get(key); ok {
		return e.token, e.err
	}
	asked := l.flight.DoChan(hex.EncodeToString(key[:]), func() (any, error) {
		if e, ok := l.get(key); ok {
			return e.token, e.err
		}
		inner, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.Timeout)
		defer cancel()
		return l.exchange(inner, key, id, secret)
	})
	select {
	case result := <-asked:
		token, _ := result.Val.(string)
		return token, result.Err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (l *Logins) exchange(ctx context.Context, key [sha256.Size]byte, id, secret string) (string, error) {
	token, expires, err := l.ask.CredentialToken(ctx, id, secret)
	now := l.cfg.Clock()
	e := login{token: token, err: err, until: now.Add(l.cfg.KeepBad)}
	switch {
	case errs.Is(err, errs.Unauthenticated):
	case err != nil:
		return "", err
	default:
		e.until = now.Add(l.cfg.Keep)
		// A token near its end would fail in the middle of a push.
		if early := expires.Add(-time.Minute); early.Before(e.until) {
			e.until = early
		}
	}
	l.put(key, e, now)
	return token, err
}

func (l *Logins) get(key [sha256.Size]byte) (login, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.kept[key]
	if ok && !l.cfg.Clock().Before(e.until) {
		delete(l.kept, key)
		return login{}, false
	}
	return e, ok
}

// put keeps an answer within the bound: what is over goes first, then any.
func (l *Logins) put(key [sha256.Size]byte, e login, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, over := range []func(login) bool{func(e login) bool { return !now.Before(e.until) }, func(e login) bool { return e.err != nil }, func(login) bool { return true }} {
		for k, old := range l.kept {
			if len(l.kept) < l.cfg.Entries {
				break
			}
			if over(old) {
				delete(l.kept, k)
			}
		}
	}
	l.kept[key] = e
}
