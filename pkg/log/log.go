// Package log sets logrus up as an operator of OpenStack expects: oslo's line layout, or JSON.
package log

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
)

// Config says how to log.
type Config struct {
	Program string    // "kiln-api": the logger's name in each line
	Debug   bool      // level DEBUG instead of INFO
	JSON    bool      // JSON instead of oslo's layout
	Output  io.Writer // standard error where nil
}

// New makes a logger.
func New(c Config) *logrus.Logger {
	l := logrus.New()
	l.SetOutput(c.Output)
	if c.Output == nil {
		l.SetOutput(os.Stderr)
	}
	if c.Debug {
		l.SetLevel(logrus.DebugLevel)
	}
	if c.JSON {
		l.SetFormatter(&logrus.JSONFormatter{TimestampFormat: timeLayout})
	} else {
		l.SetFormatter(Oslo{Program: c.Program, PID: os.Getpid()})
	}
	return l
}

// Discard is a logger for parts that were given none.
func Discard() *logrus.Logger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

const timeLayout = "2006-01-02 15:04:05.000"

// Oslo writes lines as oslo.log does by default: time, pid, level, name, [request user project], text.
// https://docs.openstack.org/oslo.log/latest/configuration/index.html (logging_context_format_string)
type Oslo struct {
	Program string
	PID     int
}

// Fields that stand in the brackets and not behind the text.
const (
	RequestID = "request_id"
	UserID    = "user_id"
	ProjectID = "project_id"
)

var levels = map[logrus.Level]string{
	logrus.TraceLevel: "DEBUG", logrus.DebugLevel: "DEBUG", logrus.InfoLevel: "INFO", logrus.WarnLevel: "WARNING",
	logrus.ErrorLevel: "ERROR", logrus.FatalLevel: "CRITICAL", logrus.PanicLevel: "CRITICAL",
}

// Format writes one line. Line breaks in texts are escaped: one entry is one line, whatever a user sent.
func (o Oslo) Format(e *logrus.Entry) ([]byte, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d %s %s [%s %s %s] %s", e.Time.Format(timeLayout), o.PID, levels[e.Level], o.Program,
		dash(e.Data[RequestID]), dash(e.Data[UserID]), dash(e.Data[ProjectID]), oneLine(e.Message))
	for _, key := range slices.Sorted(maps.Keys(e.Data)) {
		if key != RequestID && key != UserID && key != ProjectID {
			fmt.Fprintf(&b, " %s=%s", key, quote(fmt.Sprint(e.Data[key])))
		}
	}
	b.WriteByte('\n')
	return []byte(b.String()), nil
}

func dash(v any) string {
	if v == nil || v == "" {
		return "-"
	}
	return oneLine(fmt.Sprint(v))
}

func oneLine(s string) string {
	return strings.NewReplacer("\n", `\n`, "\r", `\r`).Replace(s)
}

func quote(s string) string {
	if strings.ContainsAny(s, " \t\n\r\"") || s == "" {
		return fmt.Sprintf("%q", s)
	}
	return s
}
