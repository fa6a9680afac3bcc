package setup

import (
	"fmt"
	"io"

	"github.com/sirupsen/logrus"

	"weft/internal/httpapi"
)

// NewLogger makes the logger that the configuration describes.
func NewLogger(c Log, w io.Writer) (*logrus.Logger, error) {
	level, err := logrus.ParseLevel(c.Level)
	if err != nil {
		return nil, fmt.Errorf("log.level: %w", err)
	}
	l := logrus.New()
	l.SetOutput(w)
	l.SetLevel(level)
	if c.Format == "json" {
		l.SetFormatter(&logrus.JSONFormatter{TimestampFormat: "2006-01-02T15:04:05.000Z07:00"})
	} else {
		l.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, TimestampFormat: "2006-01-02T15:04:05.000Z07:00"})
	}
	l.AddHook(requestHook{})
	return l, nil
}

// requestHook adds the request's ID to lines logged with its context.
type requestHook struct{}

func (requestHook) Levels() []logrus.Level { return logrus.AllLevels }

func (requestHook) Fire(e *logrus.Entry) error {
	if e.Context == nil {
		return nil
	}
	if reqID := httpapi.RequestID(e.Context); reqID != "" {
		e.Data["request_id"] = reqID
	}
	return nil
}
