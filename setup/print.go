package setup

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"strings"

	"gopkg.in/yaml.v3"
)

// hidden stands in the place of secrets.
const hidden = "(hidden)"

// Print writes the configuration as YAML with each option's meaning above it.
// Secrets are hidden. What it prints of a configuration without secrets is a
// configuration file.
func (c *Config) Print(w io.Writer) error {
	shown := *c
	for _, o := range Options() {
		if o.Secret {
			o.hide(&shown)
		}
	}
	var buf bytes.Buffer
	if err := printStruct(&buf, reflect.ValueOf(shown), ""); err != nil {
		return err
	}
	_, err := w.Write(buf.Bytes())
	return err
}

func (o Option) hide(c *Config) {
	f := o.field(c)
	switch {
	case f.Kind() == reflect.Slice && f.Len() > 0:
		f.Set(reflect.ValueOf([]string{hidden}))
	case f.Kind() == reflect.String && f.String() != "":
		f.SetString(hideIn(f.String()))
	}
}

// hideIn hides the password within a URL, or all of a text that is none.
func hideIn(s string) string {
	if strings.HasPrefix(s, "sqlite:") {
		return s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return hidden
	}
	return u.Redacted()
}

func printStruct(w *bytes.Buffer, v reflect.Value, indent string) error {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if i > 0 && indent == "" {
			w.WriteByte('\n')
		}
		if doc := f.Tag.Get("doc"); doc != "" {
			for _, line := range wrap(doc, 100-len(indent)) {
				fmt.Fprintf(w, "%s# %s\n", indent, line)
			}
		}
		if f.Type.Kind() == reflect.Struct {
			fmt.Fprintf(w, "%s%s:\n", indent, key)
			if err := printStruct(w, v.Field(i), indent+"  "); err != nil {
				return err
			}
			continue
		}
		out, err := yaml.Marshal(map[string]any{key: v.Field(i).Interface()})
		if err != nil {
			return fmt.Errorf("print %s: %w", key, err)
		}
		for line := range strings.Lines(string(out)) {
			w.WriteString(indent + line)
		}
	}
	return nil
}

// wrap breaks text into lines of at most width characters where it can.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// Reference writes docs/config.md.
func Reference(w io.Writer) error {
	def := Default()
	var buf bytes.Buffer
	buf.WriteString(`# Configuration

<!-- Generated from setup.Config by ` + "`make docs`" + `; do not edit. -->

` + "`weft serve --server-name example.org`" + ` needs no file. A YAML file (` + "`--config FILE` or `WEFT_CONFIG`" + `), environment
variables and flags cover the rest: flags beat the environment, the environment beats the file, the file beats the
defaults. Unknown keys and unknown ` + "`WEFT_…`" + ` variables are errors. ` + "`weft config print`" + ` shows what is in force,
` + "`weft config check`" + ` says what is wrong. Lists are separated by commas in the environment; a list's flag may be repeated.

## Listeners

The key ` + "`listeners`" + ` is a list; each entry has an ` + "`address`" + ` (HOST:PORT) and, for HTTPS, ` + "`tls`" + ` with ` + "`certificate`" + ` and ` + "`key`" + `,
two PEM files that are read again when they change. All APIs are served on every listener. The default is ` + "`" + def.Listeners[0].Address + "`" + `.

` + "```yaml" + `
listeners:
  - address: 127.0.0.1:8008
  - address: :8448
    tls:
      certificate: /etc/weft/fullchain.pem
      key: /etc/weft/privkey.pem
` + "```" + `

The flags ` + "`--listen`, `--listen-tls` (both repeatable), `--tls-cert`, `--tls-key`" + ` and the variables ` + "`WEFT_LISTEN`" + `,
` + "`WEFT_LISTEN_TLS`, `WEFT_TLS_CERT`, `WEFT_TLS_KEY`" + ` replace the whole list.

## Options
`)
	section := ""
	for _, o := range Options() {
		if s, _, ok := strings.Cut(o.Key, "."); ok && s != section {
			section = s
			fmt.Fprintf(&buf, "\n### %s\n", section)
		}
		value, err := yaml.Marshal(o.field(&def).Interface())
		if err != nil {
			return fmt.Errorf("reference of %s: %w", o.Key, err)
		}
		text := strings.TrimSpace(string(value))
		if o.Type == "list" {
			text = "[" + strings.Join(o.field(&def).Interface().([]string), ", ") + "]"
		}
		fmt.Fprintf(&buf, "\n**`%s`** (%s, default `%s`, `%s`", o.Key, o.Type, text, o.Env)
		if o.Flag != "" {
			fmt.Fprintf(&buf, ", `--%s`", o.Flag)
		}
		fmt.Fprintf(&buf, "): %s\n", o.Doc)
	}
	_, err := w.Write(buf.Bytes())
	return err
}
