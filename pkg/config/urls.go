package config

import (
	"net"
	"net/url"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// SQL turns [database] connection, as SQLAlchemy and DevStack write it, into a Go driver and its DSN:
// "mysql+pymysql://user:pa%40ss@host:3306/kiln?charset=utf8&plugin=dbcounter" or "sqlite:////path".
// Query keys that only Python drivers know are ignored.
func (d Database) SQL() (driver, dsn string, err error) {
	u, err := url.Parse(d.Connection)
	if err != nil {
		return "", "", errs.New(errs.Invalid, "kiln.config.option", "not a database address").At(errs.Where{Field: "[database] connection"})
	}
	kind, _, _ := strings.Cut(u.Scheme, "+")
	switch kind {
	case "mysql", "mariadb":
		c := mysql.NewConfig()
		c.User = u.User.Username()
		c.Passwd, _ = u.User.Password()
		c.Net, c.Addr, c.DBName = "tcp", u.Host, strings.Trim(u.Path, "/")
		if u.Port() == "" {
			c.Addr = net.JoinHostPort(u.Hostname(), "3306")
		}
		if socket := u.Query().Get("unix_socket"); socket != "" {
			c.Net, c.Addr = "unix", socket
		}
		return "mysql", c.FormatDSN(), nil
	case "sqlite":
		return "sqlite", strings.TrimPrefix(u.Path, "/"), nil
	}
	return "", "", errs.New(errs.Invalid, "kiln.config.option", "the kind %q is not supported: use mysql+pymysql:// or sqlite:///", u.Scheme).
		At(errs.Where{Field: "[database] connection"})
}

// AMQP turns an oslo.messaging transport URL into an amqp:// URL; ok is false for memory://.
// The password in it is URL-encoded again, as amqp091-go expects.
func AMQP(transport string) (address string, ok bool, err error) {
	u, err := url.Parse(transport)
	if err != nil {
		return "", false, errs.New(errs.Invalid, "kiln.config.option", "not a bus address").At(errs.Where{Field: "transport_url"})
	}
	switch u.Scheme {
	case "memory":
		return "", false, nil
	case "rabbit", "amqp", "kombu":
		u.Scheme = "amqp"
	default:
		return "", false, errs.New(errs.Invalid, "kiln.config.option", "the kind %q is not supported: use rabbit:// or memory://", u.Scheme).At(errs.Where{Field: "transport_url"})
	}
	if first, _, many := strings.Cut(u.Host, ","); many {
		u.Host = first // the client library takes one address; the cluster's others are behind a balancer
	}
	u.RawQuery = ""
	return u.String(), true, nil
}
