package store

import "strings"

// dialect is the few places where MariaDB's and SQLite's SQL differ. Both take ? and `names`.
type dialect struct {
	name       string
	forUpdate  string // appended to a SELECT that must lock its rows until the transaction ends
	skipLocked string // the same, but rows that another transaction holds are left out
	keep       func(key string) string
	upsert     func(key string) string
	given      func(column string) string // the value that the conflicting INSERT wanted
}

// SQLite's writer holds the whole database from BEGIN IMMEDIATE on, so no row needs a lock of its own.
var sqliteDialect = dialect{
	name:   SQLite,
	keep:   func(key string) string { return " ON CONFLICT DO NOTHING" },
	upsert: func(key string) string { return " ON CONFLICT (" + quoteList(key) + ") DO UPDATE SET " },
	given:  func(c string) string { return "excluded." + quote(c) },
}

var mysqlDialect = dialect{
	name:       MySQL,
	forUpdate:  " FOR UPDATE",
	skipLocked: " FOR UPDATE SKIP LOCKED",
	// Not INSERT IGNORE, which also hides values that are too long.
	keep: func(key string) string {
		first, _, _ := strings.Cut(key, ",")
		return " ON DUPLICATE KEY UPDATE " + quote(first) + " = " + quote(first)
	},
	upsert: func(string) string { return " ON DUPLICATE KEY UPDATE " },
	given:  func(c string) string { return "VALUES(" + quote(c) + ")" },
}

func quote(name string) string { return "`" + name + "`" }

func quoteList(names string) string {
	parts := strings.Split(names, ",")
	for i, p := range parts {
		parts[i] = quote(p)
	}
	return strings.Join(parts, ", ")
}

// marks is n question marks for VALUES or IN.
func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }
